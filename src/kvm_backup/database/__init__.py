"""The database of runs: engine, tables, migrations. SQLite by default, PostgreSQL for many hosts."""
