"""Tasks: prompts with answers and foils."""
