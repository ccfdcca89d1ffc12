"""Use cases: what a command or a button does."""
