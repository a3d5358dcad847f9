"""Reports for people: the HTML report of a run, terminal tables and the preflight screen."""
