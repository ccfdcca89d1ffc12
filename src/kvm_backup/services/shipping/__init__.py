"""Restore points on their way to other servers."""
