"""Developer tools: fault injection, fuzzing, plots, and training of the embedded world's model."""
