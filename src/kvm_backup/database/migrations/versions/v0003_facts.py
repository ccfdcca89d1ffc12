"""What the pages show: the inventory of VMs, sums of runs by day, samples of space, alerts."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_MOMENT = sa.DateTime(timezone=True)


def _text(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.Text, **options)


def _moment(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, _MOMENT, **options)


def _number(name: str, kind: Any = sa.Integer) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def upgrade() -> None:
    """Make the tables; the service fills them."""
    identity = sa.String(200).with_variant(sa.String(200, collation="C"), "postgresql")
    op.create_index("runs_ended", "runs", ["ended"])
    op.create_table(
        "hosts",
        _text("host", primary_key=True),
        _moment("listed"),
        _moment("away_since"),
        _text("away_error"),
        _moment("examined"),
        _moment("counted"),
    )
    op.create_table(
        "vms",
        _text("host", primary_key=True),
        sa.Column("uuid", sa.String(36), primary_key=True),
        _text("name", nullable=False),
        sa.Column("state", sa.String(20)),
        _moment("gone_since"),
        _text("disks", nullable=False),
        _number("virtual_size", sa.BigInteger),
        _text("last_point"),
        _moment("last_point_at"),
        sa.Column("last_point_mode", sa.String(20)),
        _text("last_point_repository"),
        _moment("last_snapshot_at"),
        _number("chain_length"),
        _number("points"),
        _number("bytes_stored", sa.BigInteger),
        _text("newest", nullable=False),
        sa.Column("last_run", identity),
        sa.Column("last_run_state", sa.String(20)),
        _moment("last_run_at"),
        sa.Column("last_run_error_code", sa.String(40)),
        sa.Column("failed_run", identity),
        _moment("failed_at"),
        _number("failed_runs"),
        _text("error"),
        sa.Column("error_code", sa.String(40)),
        _text("hint"),
        _number("usual_seconds"),
        _text("promises", nullable=False),
        sa.Column("protection", sa.String(20), nullable=False),
        _number("rank"),
        _number("overdue", sa.Boolean),
        _moment("promised"),
        _moment("missed"),
        _moment("next_due"),
    )
    op.create_index("vms_by_name", "vms", ["host", "name", "uuid"])
    op.create_index("vms_by_protection", "vms", ["host", "gone_since", "rank", "missed", "name", "uuid"])
    op.create_table(
        "run_days",
        _text("host", primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        _text("repository", primary_key=True),
        sa.Column("kind", sa.String(20), primary_key=True),
        _number("succeeded"),
        _number("failed"),
        _number("cancelled"),
        _number("bytes_read", sa.BigInteger),
        _number("bytes_stored", sa.BigInteger),
        _number("seconds", sa.BigInteger),
    )
    op.create_table(
        "vm_days",
        _text("host", primary_key=True),
        _text("vm", primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        _number("runs"),
        _number("failed"),
        _number("demoted"),
        sa.Column("state", sa.String(20), nullable=False),
    )
    op.create_index("vm_days_by_day", "vm_days", ["host", "day"])
    op.create_table(
        "space",
        _text("host", primary_key=True),
        _text("repository", primary_key=True),
        _moment("at", primary_key=True),
        _number("used", sa.BigInteger),
        _number("free", sa.BigInteger),
        _number("total", sa.BigInteger),
    )
    op.create_table(
        "alerts",
        sa.Column("id", identity, primary_key=True),
        _text("host", nullable=False),
        sa.Column("kind", sa.String(30), nullable=False),
        sa.Column("severity", sa.String(20), nullable=False),
        _number("rank"),
        sa.Column("subject_kind", sa.String(20), nullable=False),
        _text("subject_key", nullable=False),
        _text("subject_name", nullable=False),
        _text("subject_uuid"),
        _moment("raised", nullable=False),
        _moment("last_seen", nullable=False),
        _moment("resolved"),
        _moment("acknowledged_at"),
        _text("acknowledged_by"),
        _text("facts", nullable=False),
    )
    is_open = sa.text("resolved IS NULL")
    op.create_index(
        "alerts_open",
        "alerts",
        ["host", "kind", "subject_kind", "subject_key"],
        unique=True,
        sqlite_where=is_open,
        postgresql_where=is_open,
    )
    op.create_index("alerts_unseen", "alerts", ["host", "resolved", "acknowledged_at"])
    op.create_index("alerts_by_time", "alerts", ["host", "raised", "id"])
