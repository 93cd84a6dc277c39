"""What a run is given: the model with its device and type, and the prompts of a file."""
