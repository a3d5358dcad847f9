"""The report of a run, terminal tables, the preflight screen."""
