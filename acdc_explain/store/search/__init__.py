"""Finding things in a store: patterns, text and likeness, compiled to SQL."""
