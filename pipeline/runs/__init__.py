"""Runs: requests from plain options, the interface of a kind of work, its execution, and the worker."""
