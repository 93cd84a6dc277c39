"""Models whose components have known roles, to measure labels by."""
