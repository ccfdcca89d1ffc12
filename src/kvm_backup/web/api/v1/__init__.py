"""Version 1 of the JSON API: one router for each resource. Docs: /api/docs, docs/api.md."""
