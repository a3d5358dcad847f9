"""Metrics, and protocols for known truth."""
