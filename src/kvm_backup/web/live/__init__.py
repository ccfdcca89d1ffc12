"""What changes while a page is open: one poller, and one stream of events for each page."""
