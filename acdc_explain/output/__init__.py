"""What leaves the program: text that is shown and never obeyed, and files that users name."""
