"""Models: loading, families, chat templates, image features, weight digests."""
