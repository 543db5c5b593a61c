"""The fork experiment: its table, the comparison of schedules, and its summary."""
