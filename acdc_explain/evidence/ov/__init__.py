"""What a head's weights do with an attended token, wherever the head attends."""
