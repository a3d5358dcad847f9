"""Command-line tools built on the package."""
