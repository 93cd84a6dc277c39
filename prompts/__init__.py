"""Templates of the questions that are put to an LLM."""
