"""Ways to test a label."""
