"""The history: runs and their steps."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    identity = sa.String(200).with_variant(sa.String(200, collation="C"), "postgresql")
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "runs",
        sa.Column("id", identity, primary_key=True),
        sa.Column("vm_name", sa.Text, nullable=False),
        sa.Column("vm_uuid", sa.String(36)),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("trigger", sa.String(20), nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("repository", sa.Text, nullable=False),
        sa.Column("requested_mode", sa.String(20), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("created", moment, nullable=False),
        sa.Column("schedule_id", sa.String(200)),
        sa.Column("schedule_name", sa.Text),
        sa.Column("due", moment),
        sa.Column("late", sa.Boolean, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("started", moment),
        sa.Column("ended", moment),
        sa.Column("retry_at", moment),
        sa.Column("step", sa.String(20)),
        sa.Column("done", sa.BigInteger, nullable=False),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("mode", sa.String(20)),
        sa.Column("reason", sa.String(40)),
        sa.Column("detail", sa.Text),
        sa.Column("point", sa.Text),
        sa.Column("consistency", sa.String(20)),
        sa.Column("bytes_read", sa.BigInteger, nullable=False),
        sa.Column("bytes_stored", sa.BigInteger, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("error_code", sa.String(40)),
        sa.Column("hint", sa.Text),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
    )
    op.create_index("runs_newest", "runs", ["created", "id"])
    op.create_index("runs_of_vm", "runs", ["vm_name", "created", "id"])
    op.create_index("runs_of_vm_uuid", "runs", ["vm_uuid", "created", "id"])
    op.create_index("runs_of_schedule", "runs", ["schedule_id", "created", "id"])
    op.create_index("runs_in_state", "runs", ["state", "created", "id"])
    op.create_table(
        "run_steps",
        sa.Column("run_id", identity, sa.ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(20), nullable=False),
        sa.Column("started", moment, nullable=False),
        sa.Column("ended", moment),
    )
