"""What lies on disk: atomic files, parquet shards, manifests."""
