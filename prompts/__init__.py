"""The templates of the questions asked of an LLM."""
