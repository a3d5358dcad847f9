"""What people look at: the report of a run, tables, the preflight screen."""
