"""What a trajectory shows: convergence, onset, phases and their statistics, from tables only (no torch, no ray)."""
