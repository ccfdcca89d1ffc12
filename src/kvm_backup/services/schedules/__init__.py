"""Schedules: their file, and what can be done with them."""
