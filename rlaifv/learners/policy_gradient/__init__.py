"""Policy gradients on trees: the clipped surrogate with advantages that the data come with."""
