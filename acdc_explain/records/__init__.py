"""The records that a store holds: plain data, without torch, DuckDB or a server."""
