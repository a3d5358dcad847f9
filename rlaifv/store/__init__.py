"""On-disk storage: atomic file writes, parquet shards, manifests, checkpoints."""
