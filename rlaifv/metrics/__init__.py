"""Metrics, and what a world knows to be true."""
