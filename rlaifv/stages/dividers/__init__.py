"""Dividers: a response in, its atomic claims out."""
