"""Data handling: from prompts and images to batches of preference pairs."""
