"""What Alembic runs: the steps, on the connection and in the transaction of `engine.py`."""

from alembic import context

from kvm_backup.database.tables import METADATA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
)
context.run_migrations()
