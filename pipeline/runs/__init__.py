"""Requests for work, from plain options: everything wrong with them is found here, before any work starts."""
