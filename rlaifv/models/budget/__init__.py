"""What a run costs: parameters, FLOPs, memory, disk."""
