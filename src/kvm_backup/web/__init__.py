"""The dashboard: pages, live events, the JSON API."""
