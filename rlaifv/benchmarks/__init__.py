"""The field's hallucination benchmarks: their official files in, their official numbers out."""
