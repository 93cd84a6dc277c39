"""Models that load without the Hugging Face hub."""
