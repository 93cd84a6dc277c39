"""How good the tool itself is: known roles, blind LLMs, other draws, exact models."""
