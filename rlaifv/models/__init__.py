"""Weights, families, chat templates, prefix trees and sampling on them."""
