"""Claims about components: which to make, how each is tested, and what they explain together."""
