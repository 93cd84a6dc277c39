"""The transformer: loading it, reading and writing it node by node."""
