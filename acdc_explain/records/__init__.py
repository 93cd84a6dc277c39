"""What is kept: plain records without torch, a store or a server."""
