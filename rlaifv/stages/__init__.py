"""The stages of an iteration: records in, records out."""
