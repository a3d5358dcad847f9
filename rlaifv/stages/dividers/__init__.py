"""Dividers, which split a response into atomic claims."""
