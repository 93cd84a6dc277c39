"""Printing text that a terminal must not obey, and writing files that users name."""
