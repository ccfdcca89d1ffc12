"""What waits to be shipped, and what is known of each remote: for pages, alerts and metrics."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables; the service fills them."""
    op.create_table(
        "waiting",
        sa.Column("host", sa.Text, primary_key=True),
        sa.Column("remote", sa.Text, primary_key=True),
        sa.Column("folder", sa.Text, primary_key=True),
        sa.Column("vm_name", sa.Text, nullable=False),
        sa.Column("vm_uuid", sa.String(36), nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("since", _MOMENT, nullable=False),
        sa.Column("points", sa.Text, nullable=False),
    )
    op.create_index("waiting_by_time", "waiting", ["host", "since", "remote", "folder"])
    op.create_index("waiting_of_vm", "waiting", ["host", "vm_uuid"])
    op.create_table(
        "remotes",
        sa.Column("host", sa.Text, primary_key=True),
        sa.Column("remote", sa.Text, primary_key=True),
        sa.Column("points", sa.Integer, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("vms", sa.Integer, nullable=False),
        sa.Column("shipped_at", _MOMENT),
    )
