"""The embedded default: drawn scenes with known truth and a small real LLaVA."""
