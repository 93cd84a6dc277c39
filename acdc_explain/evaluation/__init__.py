"""How good this program's results are: labels, LLMs, draws of prompts, exactness on a model."""
