"""What runs other than backups were asked to do, so that they can be shown and done again."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Backups need no more than their mode, so runs that are there stay as they are."""
    op.add_column("runs", sa.Column("task", sa.Text))
