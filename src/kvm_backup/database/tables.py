"""The tables as the program uses them. A test compares them with what the migrations make."""

import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    text,
)

from kvm_backup.domain.account import Outcome, Role, Via
from kvm_backup.domain.alert import AlertKind, Severity, SubjectKind
from kvm_backup.domain.point import Mode
from kvm_backup.domain.protection import Protection
from kvm_backup.domain.run import RunKind, RunState, Trigger
from kvm_backup.domain.task import Task, task_as_json, task_from_json
from kvm_backup.domain.vm import VmState

VERSION_TABLE = "kvm_backup_schema"
"""Our own name, because other programs may keep tables in the same database."""
VERSION = "0006"
"""The newest migration; four digits, one more with each."""

METADATA = MetaData()


def storable(text: str) -> str:
    """A text without what a database refuses: names on a command line may hold any byte, NUL and broken UTF-8 too."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")


class Storable(TypeDecorator[str]):
    """Any text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else storable(value)


class Moment(TypeDecorator[datetime]):
    """A point in time, in UTC; a value without a zone is a fault of the caller."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone")
        try:
            return value.astimezone(UTC)
        except OverflowError:
            # The first and the last day of the calendar, somewhere else on the globe.
            first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
            return first if value.year == first.year else last

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        # SQLite keeps no zone; what we put in was UTC.
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Word(TypeDecorator[Any]):
    """A value of one of our enumerations, kept as its word."""

    impl = String
    cache_ok = True

    def __init__(self, kind: type[StrEnum], length: int = 20) -> None:
        super().__init__(length)
        self.kind = kind

    def process_bind_param(self, value: StrEnum | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else value.value

    def process_result_value(self, value: str | None, dialect: Dialect) -> StrEnum | None:  # noqa: ARG002
        return None if value is None else self.kind(value)


class WordOrNothing(Word):
    """The same where the column takes no null: nothing is an empty word."""

    cache_ok = True

    def process_bind_param(self, value: StrEnum | None, dialect: Dialect) -> str:
        return super().process_bind_param(value, dialect) or ""

    def process_result_value(self, value: str | None, dialect: Dialect) -> StrEnum | None:
        return super().process_result_value(value or None, dialect)


class KeptTask(TypeDecorator[Task]):
    """What a run was asked to do, as JSON. What this version cannot read is None: a row is shown all the same."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Task | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else json.dumps(task_as_json(value))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Task | None:  # noqa: ARG002
        try:
            return None if value is None else task_from_json(json.loads(value))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None


_IDENTITY = String(200).with_variant(String(200, collation="C"), "postgresql")
"""Compared byte by byte everywhere, so that a beginning of an id can be looked up in the index."""

RUNS = Table(
    "runs",
    METADATA,
    Column("id", _IDENTITY, primary_key=True),
    Column("vm_name", Storable, nullable=False),
    Column("vm_uuid", String(36)),
    Column("kind", Word(RunKind), nullable=False),
    Column("trigger", Word(Trigger), nullable=False),
    Column("host", Storable, nullable=False),
    Column("repository", Storable, nullable=False),
    Column("requested_mode", WordOrNothing(Mode), nullable=False),
    Column("state", Word(RunState), nullable=False),
    Column("created", Moment, nullable=False),
    Column("schedule_id", String(200)),
    Column("schedule_name", Storable),
    Column("due", Moment),
    Column("late", Boolean, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("started", Moment),
    Column("ended", Moment),
    Column("retry_at", Moment),
    Column("step", String(20)),
    Column("done", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("mode", Word(Mode)),
    Column("reason", String(40)),
    Column("detail", Storable),
    Column("point", Storable),
    Column("consistency", String(20)),
    Column("bytes_read", BigInteger, nullable=False),
    Column("bytes_stored", BigInteger, nullable=False),
    Column("error", Storable),
    Column("error_code", String(40)),
    Column("hint", Storable),
    Column("cancel_requested", Boolean, nullable=False),
    Column("task", KeptTask),
    Index("runs_newest", "created", "id"),
    Index("runs_of_vm", "vm_name", "created", "id"),
    Index("runs_of_vm_uuid", "vm_uuid", "created", "id"),
    Index("runs_of_schedule", "schedule_id", "created", "id"),
    Index("runs_in_state", "state", "created", "id"),
    Index("runs_ended", "ended"),
)

STEPS = Table(
    "run_steps",
    METADATA,
    Column("run_id", _IDENTITY, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", String(20), nullable=False),
    Column("started", Moment, nullable=False),
    Column("ended", Moment),
)

USERS = Table(
    "users",
    METADATA,
    Column("id", _IDENTITY, primary_key=True),
    Column("name", _IDENTITY, nullable=False),
    Column("role", Word(Role), nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("password_hash", Text),
    Column("created", Moment, nullable=False),
    Column("last_sign_in", Moment),
    Index("users_by_name", "name", unique=True),
)

_OF_USER = ("user_id", _IDENTITY)

SESSIONS = Table(
    "sessions",
    METADATA,
    Column("id", _IDENTITY, primary_key=True),
    Column(*_OF_USER, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("created", Moment, nullable=False),
    Column("seen", Moment, nullable=False),
    Column("address", Storable, nullable=False),
    Column("agent", Storable, nullable=False),
    Index("sessions_of_user", "user_id"),
)
"""Ids of sessions and invitations, like digests of tokens, are SHA-256 of a secret: who reads them cannot use it."""

INVITATIONS = Table(
    "invitations",
    METADATA,
    Column("id", _IDENTITY, primary_key=True),
    Column(*_OF_USER, ForeignKey("users.id", ondelete="CASCADE")),
    Column("created", Moment, nullable=False),
    Column("expires", Moment, nullable=False),
    Index("invitations_of_user", "user_id"),
)

API_TOKENS = Table(
    "api_tokens",
    METADATA,
    Column("id", _IDENTITY, primary_key=True),
    Column("digest", _IDENTITY, nullable=False),
    Column(*_OF_USER, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("name", Storable, nullable=False),
    Column("role", Word(Role), nullable=False),
    Column("created", Moment, nullable=False),
    Column("expires", Moment),
    Column("last_used", Moment),
    Index("api_tokens_by_digest", "digest", unique=True),
    Index("api_tokens_of_user", "user_id"),
)

LOGIN_FAILURES = Table(
    "login_failures",
    METADATA,
    Column("key", _IDENTITY, primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("last", Moment, nullable=False),
    Index("login_failures_by_time", "last"),
)

KNOWN_ADDRESSES = Table(
    "known_addresses",
    METADATA,
    Column(*_OF_USER, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("address", _IDENTITY, primary_key=True),
    Column("last", Moment, nullable=False),
)

AUDIT = Table(
    "audit",
    METADATA,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", Moment, nullable=False),
    Column("who", Storable, nullable=False),
    Column("via", Word(Via), nullable=False),
    Column("address", Storable),
    Column("action", String(60), nullable=False),
    Column("subject", Storable, nullable=False),
    Column("outcome", Word(Outcome), nullable=False),
    Column("detail", Storable, nullable=False),
    Index("audit_by_time", "at"),
)

HOSTS = Table(
    "hosts",
    METADATA,
    Column("host", Storable, primary_key=True),
    Column("listed", Moment),
    Column("away_since", Moment),
    Column("away_error", Storable),
    Column("examined", Moment),
    Column("counted", Moment),
)
"""When the service of each host last looked at what; `counted` is when its runs were first added up by day."""

VMS = Table(
    "vms",
    METADATA,
    Column("host", Storable, primary_key=True),
    Column("uuid", String(36), primary_key=True),
    Column("name", Storable, nullable=False),
    Column("state", Word(VmState)),
    Column("gone_since", Moment),
    Column("disks", Storable, nullable=False),
    Column("virtual_size", BigInteger, nullable=False),
    Column("last_point", Storable),
    Column("last_point_at", Moment),
    Column("last_point_mode", Word(Mode)),
    Column("last_point_repository", Storable),
    Column("last_snapshot_at", Moment),
    Column("chain_length", Integer, nullable=False),
    Column("points", Integer, nullable=False),
    Column("bytes_stored", BigInteger, nullable=False),
    Column("newest", Storable, nullable=False),
    Column("last_run", _IDENTITY),
    Column("last_run_state", Word(RunState)),
    Column("last_run_at", Moment),
    Column("last_run_error_code", String(40)),
    Column("failed_run", _IDENTITY),
    Column("failed_at", Moment),
    Column("failed_runs", Integer, nullable=False),
    Column("error", Storable),
    Column("error_code", String(40)),
    Column("hint", Storable),
    Column("usual_seconds", Integer, nullable=False),
    Column("promises", Storable, nullable=False),
    Column("protection", Word(Protection), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("overdue", Boolean, nullable=False),
    Column("promised", Moment),
    Column("missed", Moment),
    Column("next_due", Moment),
    Index("vms_by_name", "host", "name", "uuid"),
    Index("vms_by_protection", "host", "gone_since", "rank", "missed", "name", "uuid"),
)
"""The inventory. `disks`, `newest` and `promises` are JSON; `rank` is the protection's, for sorting."""

DAYS = Table(
    "run_days",
    METADATA,
    Column("host", Storable, primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("repository", Storable, primary_key=True),
    Column("kind", Word(RunKind), primary_key=True),
    Column("succeeded", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("cancelled", Integer, nullable=False),
    Column("bytes_read", BigInteger, nullable=False),
    Column("bytes_stored", BigInteger, nullable=False),
    Column("seconds", BigInteger, nullable=False),
)
"""What runs that ended on a day (ISO 8601, in the configured zone) came to, together."""

VM_DAYS = Table(
    "vm_days",
    METADATA,
    Column("host", Storable, primary_key=True),
    Column("vm", Storable, primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("runs", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("demoted", Integer, nullable=False),
    Column("state", Word(RunState), nullable=False),
    Index("vm_days_by_day", "host", "day"),
)
"""What the backups of a VM came to that were asked for on a day, the last of them in `state`. `vm` is the UUID; the
name where the run ended before it was known."""

SPACE = Table(
    "space",
    METADATA,
    Column("host", Storable, primary_key=True),
    Column("repository", Storable, primary_key=True),
    Column("at", Moment, primary_key=True),
    Column("used", BigInteger, nullable=False),
    Column("free", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
)

ALERTS = Table(
    "alerts",
    METADATA,
    Column("id", _IDENTITY, primary_key=True),
    Column("host", Storable, nullable=False),
    Column("kind", Word(AlertKind, 30), nullable=False),
    Column("severity", Word(Severity), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("subject_kind", Word(SubjectKind), nullable=False),
    Column("subject_key", Storable, nullable=False),
    Column("subject_name", Storable, nullable=False),
    Column("subject_uuid", Storable),
    Column("raised", Moment, nullable=False),
    Column("last_seen", Moment, nullable=False),
    Column("resolved", Moment),
    Column("acknowledged_at", Moment),
    Column("acknowledged_by", Storable),
    Column("facts", Storable, nullable=False),
    Index(
        "alerts_open",
        "host",
        "kind",
        "subject_kind",
        "subject_key",
        unique=True,
        sqlite_where=text("resolved IS NULL"),
        postgresql_where=text("resolved IS NULL"),
    ),
    Index("alerts_unseen", "host", "resolved", "acknowledged_at"),
    Index("alerts_by_time", "host", "raised", "id"),
)
"""At most one alert of a kind and subject is open. `rank` is 0 for the most severe; `facts` is JSON."""

WAITING = Table(
    "waiting",
    METADATA,
    Column("host", Storable, primary_key=True),
    Column("remote", Storable, primary_key=True),
    Column("folder", Storable, primary_key=True),
    Column("vm_name", Storable, nullable=False),
    Column("vm_uuid", String(36), nullable=False),
    Column("count", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("since", Moment, nullable=False),
    Column("points", Storable, nullable=False),
    Index("waiting_by_time", "host", "since", "remote", "folder"),
    Index("waiting_of_vm", "host", "vm_uuid"),
)
"""What waits to be shipped: of a VM's folder, to a remote. `points` is JSON: since when each waits, by its id."""

UNSHIPPABLE = Table(
    "unshippable",
    METADATA,
    Column("host", Storable, primary_key=True),
    Column("remote", Storable, primary_key=True),
    Column("folder", Storable, primary_key=True),
    Column("vm_name", Storable, nullable=False),
    Column("vm_uuid", String(36), nullable=False),
    Column("count", Integer, nullable=False),
    Column("next_full", Boolean, nullable=False),
    Column("unsure", Boolean, nullable=False),
    Column("points", Storable, nullable=False),
    Index("unshippable_of_vm", "host", "vm_uuid"),
    Index("unshippable_by_name", "host", "vm_name", "remote", "folder"),
)
"""What cannot be shipped: of a VM's folder, to a remote. `points` is a JSON list of ids."""

REMOTES = Table(
    "remotes",
    METADATA,
    Column("host", Storable, primary_key=True),
    Column("remote", Storable, primary_key=True),
    Column("points", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("vms", Integer, nullable=False),
    Column("shipped_at", Moment),
)
"""What remotes hold by their mirrors, and when a point last arrived there."""
