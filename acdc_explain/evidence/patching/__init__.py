"""Interventions: nodes that write something else, paths that are cut, keys that are not read."""
