"""Reward models on trees: scores of answers from comparisons, and classes of segments."""
