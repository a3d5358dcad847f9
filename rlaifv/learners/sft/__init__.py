"""Supervised fine-tuning on trees: the negative log-likelihood of target answers."""
