"""Whole runs in an open store: adding, naming and removing them."""
