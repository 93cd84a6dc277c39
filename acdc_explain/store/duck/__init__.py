"""DuckDB itself: one engine, locks, limits, and no file but the store within reach."""
