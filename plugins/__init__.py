"""Everything built in, one idea a file, loaded through the same entry points as anyone's plugin."""
