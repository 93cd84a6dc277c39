"""Numbers about components, each with its error and what chance would give."""
