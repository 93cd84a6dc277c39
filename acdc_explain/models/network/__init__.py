"""Where the nodes of a Hugging Face model are, and hooks on what they read and write."""
