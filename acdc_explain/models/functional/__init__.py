"""What layers compute, as plain functions of what their ports read."""
