"""Measuring a policy: metrics, and what a world knows to be true."""
