"""Speed benchmarks: ratios of two implementations measured side by side in one process."""
