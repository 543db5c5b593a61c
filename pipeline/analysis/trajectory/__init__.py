"""One training run: its table, phases, convergence, onset, what moves with the learning rate, and the summary."""
