"""Collectors: each measures one kind of evidence."""
