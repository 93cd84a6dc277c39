"""One DuckDB file that keeps every record as soon as it exists."""
