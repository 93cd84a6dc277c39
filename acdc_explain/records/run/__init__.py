"""A run as a whole: what was asked, and everything that was found."""
