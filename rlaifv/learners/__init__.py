"""What trains on the records of an iteration, one package per method."""
