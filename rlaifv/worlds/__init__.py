"""The embedded world: drawn scenes with known truth, and a small real LLaVA."""
