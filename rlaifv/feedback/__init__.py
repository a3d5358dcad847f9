"""What each stage does: records in, records out."""
