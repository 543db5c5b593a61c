"""Figures and page of a fork experiment, from its table and its schedules.json."""
