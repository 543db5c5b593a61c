"""What a trajectory shows: convergence, onset, phases, statistics; from tables only, no torch, no ray."""
