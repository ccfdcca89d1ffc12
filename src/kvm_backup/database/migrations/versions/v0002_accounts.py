"""Accounts: users, their sessions, invitations and API tokens, failed sign-ins, and the audit log."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables."""
    identity = sa.String(200).with_variant(sa.String(200, collation="C"), "postgresql")
    moment = sa.DateTime(timezone=True)

    def of_user(**options: Any) -> sa.Column[Any]:
        return sa.Column("user_id", identity, sa.ForeignKey("users.id", ondelete="CASCADE"), **options)

    op.create_table(
        "users",
        sa.Column("id", identity, primary_key=True),
        sa.Column("name", identity, nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("password_hash", sa.Text),
        sa.Column("created", moment, nullable=False),
        sa.Column("last_sign_in", moment),
    )
    op.create_index("users_by_name", "users", ["name"], unique=True)
    op.create_table(
        "sessions",
        sa.Column("id", identity, primary_key=True),
        of_user(nullable=False),
        sa.Column("created", moment, nullable=False),
        sa.Column("seen", moment, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
    )
    op.create_index("sessions_of_user", "sessions", ["user_id"])
    op.create_table(
        "invitations",
        sa.Column("id", identity, primary_key=True),
        of_user(),
        sa.Column("created", moment, nullable=False),
        sa.Column("expires", moment, nullable=False),
    )
    op.create_index("invitations_of_user", "invitations", ["user_id"])
    op.create_table(
        "api_tokens",
        sa.Column("id", identity, primary_key=True),
        sa.Column("digest", identity, nullable=False),
        of_user(nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("created", moment, nullable=False),
        sa.Column("expires", moment),
        sa.Column("last_used", moment),
    )
    op.create_index("api_tokens_by_digest", "api_tokens", ["digest"], unique=True)
    op.create_index("api_tokens_of_user", "api_tokens", ["user_id"])
    op.create_table(
        "login_failures",
        sa.Column("key", identity, primary_key=True),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("last", moment, nullable=False),
    )
    op.create_index("login_failures_by_time", "login_failures", ["last"])
    op.create_table(
        "known_addresses",
        of_user(primary_key=True),
        sa.Column("address", identity, primary_key=True),
        sa.Column("last", moment, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("at", moment, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("via", sa.String(20), nullable=False),
        sa.Column("address", sa.Text),
        sa.Column("action", sa.String(60), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("outcome", sa.String(20), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_index("audit_by_time", "audit", ["at"])
