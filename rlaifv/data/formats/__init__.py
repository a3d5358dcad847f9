"""Row parsers, one module per preference data format."""
