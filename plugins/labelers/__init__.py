"""Ways to propose roles."""
