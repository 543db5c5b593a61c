"""Analyse trajectories and forks from tables only: convergence, onset, phases, decisions; no torch, no Ray."""
