"""Behaviors: prompts with answers and foils."""
