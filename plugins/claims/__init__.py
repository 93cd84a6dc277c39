"""Kinds of claims, each with its arguments, its sentence and its test."""
