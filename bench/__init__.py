"""Measures KVM Backup beside its peers, on one machine, in one run."""
