"""The embedded default: drawn scenes with known ground truth, and a small real LLaVA."""
