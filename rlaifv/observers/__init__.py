"""Observers of the loop: held-out measurement, canaries, statistics, candidates."""
