"""What the repository needs and a run does not."""
