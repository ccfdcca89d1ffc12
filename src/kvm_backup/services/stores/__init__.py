"""Where points are read from, one way for a folder on this host and for another server."""
