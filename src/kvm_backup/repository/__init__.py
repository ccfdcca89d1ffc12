"""Where restore points are kept."""
