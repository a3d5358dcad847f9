"""Engines: who runs a model for the stages."""
