"""Ways to find a circuit."""
