"""Judges: each tests labels in one way."""
