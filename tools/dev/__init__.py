"""Tools for developers of this project: fault injection, fuzzing, the embedded world's model."""
