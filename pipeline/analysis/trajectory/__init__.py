"""Analysis of one training run: table, convergence, onset, phases, response to the learning rate, summary."""
