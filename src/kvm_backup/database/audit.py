"""The audit log: who did what. Lines are added, read, and forgotten when they are old; never changed."""

from collections.abc import Callable
from dataclasses import fields
from datetime import datetime

from sqlalchemy import delete, insert, or_, select

from kvm_backup.database.engine import Database
from kvm_backup.database.tables import AUDIT
from kvm_backup.domain.account import Actor, AuditEntry, Outcome
from kvm_backup.domain.text import printable

_LONGEST = 500
_ACTION_LENGTH = 60
_BATCH = 5000


class AuditLog:
    """The lines. `clock` gives the time in UTC. Every method may raise DatabaseError."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def add(self, actor: Actor, action: str, subject: str, outcome: Outcome, detail: str = "") -> None:
        """Add a line. `action` is a stable word such as `user.add`; texts are cut and made printable."""
        row = {
            "at": self._clock(),
            "who": _clean(actor.name),
            "via": actor.via,
            "address": None if actor.address is None else _clean(actor.address),
            "action": _clean(action)[:_ACTION_LENGTH],
            "subject": _clean(subject),
            "outcome": outcome,
            "detail": _clean(detail),
        }
        with self._database.transaction(write=True) as connection:
            connection.execute(insert(AUDIT).values(row))

    def newest(self, *, search: str = "", before: int | None = None, limit: int = 50) -> list[AuditEntry]:
        """Lines, newest first: those that hold a text anywhere, those older than a line's number."""
        query = select(*(AUDIT.c[field.name] for field in fields(AuditEntry)))
        wanted = printable(search.strip())
        if wanted:
            columns = (AUDIT.c.who, AUDIT.c.address, AUDIT.c.action, AUDIT.c.subject, AUDIT.c.detail)
            query = query.where(or_(*(column.icontains(wanted, autoescape=True) for column in columns)))
        if before is not None:
            query = query.where(AUDIT.c.number < before)
        with self._database.transaction() as connection:
            rows = connection.execute(query.order_by(AUDIT.c.number.desc()).limit(limit))
            return [AuditEntry(**row._mapping) for row in rows]

    def delete_older_than(self, moment: datetime) -> None:
        """Forget lines, some at a time."""
        some = select(AUDIT.c.number).where(AUDIT.c.at < moment).limit(_BATCH)
        while True:
            with self._database.transaction(write=True) as connection:
                if connection.execute(delete(AUDIT).where(AUDIT.c.number.in_(some))).rowcount < _BATCH:
                    return


def _clean(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"
