"""Single experiments for a notebook: cut an edge, ablate, look at attention, patch a path."""
