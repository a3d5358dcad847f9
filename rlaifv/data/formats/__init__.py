"""Parsers of preference data formats."""
