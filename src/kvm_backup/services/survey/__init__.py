"""The survey: what the service finds out about VMs, points and runs, and writes into the inventory."""
