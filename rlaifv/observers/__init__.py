"""What watches the loop: held-out measurements, canaries, statistics, candidates."""
