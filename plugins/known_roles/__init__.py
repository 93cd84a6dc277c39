"""Models whose roles are known."""
