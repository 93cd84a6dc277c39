"""Everything built in. It is loaded through the same entry points as plugins of other packages."""
