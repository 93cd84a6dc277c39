"""A run as the exported document `acdc-explain/run/1`: written, read, and checked."""
