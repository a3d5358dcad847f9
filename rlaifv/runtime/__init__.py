"""Process-level services of a run: ranks, seeds, signals, console, clock."""
