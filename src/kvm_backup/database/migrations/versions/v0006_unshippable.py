"""What cannot be shipped, for pages and alerts."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the table; the service fills it."""
    op.create_table(
        "unshippable",
        sa.Column("host", sa.Text, primary_key=True),
        sa.Column("remote", sa.Text, primary_key=True),
        sa.Column("folder", sa.Text, primary_key=True),
        sa.Column("vm_name", sa.Text, nullable=False),
        sa.Column("vm_uuid", sa.String(36), nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("next_full", sa.Boolean, nullable=False),
        sa.Column("unsure", sa.Boolean, nullable=False),
        sa.Column("points", sa.Text, nullable=False),
    )
    op.create_index("unshippable_of_vm", "unshippable", ["host", "vm_uuid"])
    op.create_index("unshippable_by_name", "unshippable", ["host", "vm_name", "remote", "folder"])
