"""Prefix trees: packing, attention masks, decoding."""
