"""The process that a run lives in: ranks, seeds, signals, console, clock."""
