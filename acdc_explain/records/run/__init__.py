"""A run as a whole: what was asked, and what all of it came to."""
