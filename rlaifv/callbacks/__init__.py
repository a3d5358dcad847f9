"""Callbacks: what happens between Lightning's steps and epochs."""
