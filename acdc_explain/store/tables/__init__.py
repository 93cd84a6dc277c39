"""The tables: their schema, and records in and out of them."""
