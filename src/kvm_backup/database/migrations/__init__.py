"""The steps that bring a database of an older version up to date; Alembic runs them, `engine.py` tells when."""
