"""Prompts, images, preference data of others, and the DataModule."""
