"""Commands over the package."""
