"""Prompts and images in, batches of preference pairs out."""
