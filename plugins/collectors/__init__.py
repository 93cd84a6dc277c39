"""Kinds of evidence."""
