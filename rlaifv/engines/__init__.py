"""Who runs a model for the stages."""
