"""Files of a run: atomic writes, parquet shards, manifests, checkpoints."""
