"""Hallucination benchmarks: official files in, official numbers out."""
