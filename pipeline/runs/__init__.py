"""Runs: requests from plain options, what a kind of work is, one call of any kind, and the worker."""
