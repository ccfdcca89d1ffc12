"""Alerts in the database. Each call is one short transaction; of a kind and subject at most one alert is open."""

import json
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import Row, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from kvm_backup.database.engine import Database
from kvm_backup.database.tables import ALERTS, storable
from kvm_backup.domain.alert import Alert, AlertKind, Changes, Condition, Severity, Subject
from kvm_backup.domain.errors import AlertNotFoundError
from kvm_backup.domain.phrase import phrase

_REFRESHED_AFTER = timedelta(minutes=10)
"""How far `last_seen` of an open alert may be behind: thousands of rows are not written each minute."""
_BATCH = 500
_RANKS = {Severity.CRITICAL: 0, Severity.WARNING: 1}


class Alerts:
    """The alerts of one host. Every method raises DatabaseError when the database is away."""

    def __init__(self, database: Database, host: str) -> None:
        self._database = database
        self._host = storable(host)

    # Reading

    def open(self, *, acknowledged: bool | None = None, offset: int = 0, limit: int | None = None) -> list[Alert]:
        """What is not over, the unacknowledged first, then the most severe, then the newest."""
        query = self._unresolved(select(ALERTS), acknowledged).order_by(
            ALERTS.c.acknowledged_at.is_not(None), ALERTS.c.rank, ALERTS.c.raised.desc(), ALERTS.c.id
        )
        with self._database.transaction() as connection:
            return [_alert(row) for row in connection.execute(query.offset(offset).limit(limit))]

    def of_kind(self, kind: AlertKind) -> list[Alert]:
        """What is not over, of one kind."""
        query = self._unresolved(select(ALERTS), None).where(ALERTS.c.kind == kind).order_by(ALERTS.c.id)
        with self._database.transaction() as connection:
            return [_alert(row) for row in connection.execute(query)]

    def count_open(self, *, acknowledged: bool | None = None) -> int:
        """How many are not over."""
        query = self._unresolved(select(func.count()).select_from(ALERTS), acknowledged)
        with self._database.transaction() as connection:
            return int(connection.execute(query).scalar_one())

    def counts(self) -> dict[tuple[AlertKind, Severity], int]:
        """How many are not over, by kind and severity."""
        query = self._unresolved(select(ALERTS.c.kind, ALERTS.c.severity, func.count()), None)
        with self._database.transaction() as connection:
            rows = connection.execute(query.group_by(ALERTS.c.kind, ALERTS.c.severity))
            return {(kind, severity): int(number) for kind, severity, number in rows}

    def history(self, *, offset: int = 0, limit: int = 50) -> list[Alert]:
        """All alerts, over or not, the newest first."""
        query = select(ALERTS).where(ALERTS.c.host == self._host)
        query = query.order_by(ALERTS.c.raised.desc(), ALERTS.c.id.desc()).offset(offset).limit(limit)
        with self._database.transaction() as connection:
            return [_alert(row) for row in connection.execute(query)]

    def count_history(self) -> int:
        """How many `history` would list in all."""
        query = select(func.count()).select_from(ALERTS).where(ALERTS.c.host == self._host)
        with self._database.transaction() as connection:
            return int(connection.execute(query).scalar_one())

    def get(self, alert_id: str) -> Alert:
        """Raises AlertNotFoundError."""
        query = select(ALERTS).where(ALERTS.c.host == self._host, ALERTS.c.id == storable(alert_id))
        with self._database.transaction() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise AlertNotFoundError(
                phrase("there is no alert {alert_id!r}", alert_id=alert_id[:100]),
                hint=phrase("It may be long over; the page of alerts has all."),
            )
        return _alert(row)

    # Writing

    def apply(self, changes: Changes, now: datetime) -> None:
        """Raise, refresh and resolve; what another process raised meanwhile is not raised again."""
        with self._database.transaction(write=True) as connection:
            insert = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(ALERTS)
            for at in range(0, len(changes.new), _BATCH):
                rows = [self._row(condition, now) for condition in changes.new[at : at + _BATCH]]
                connection.execute(insert.on_conflict_do_nothing(), rows)
            for alert, condition in changes.changed:
                connection.execute(
                    update(ALERTS).where(ALERTS.c.id == alert.id).values(**_told(condition), last_seen=now)
                )
            over = [alert.id for alert in changes.over]
            for at in range(0, len(over), _BATCH):
                some = ALERTS.c.id.in_(over[at : at + _BATCH])
                connection.execute(update(ALERTS).where(some, ALERTS.c.resolved.is_(None)).values(resolved=now))
            stale = ALERTS.c.last_seen < now - _REFRESHED_AFTER
            connection.execute(
                update(ALERTS)
                .where(ALERTS.c.host == self._host, ALERTS.c.resolved.is_(None), stale)
                .values(last_seen=now)
            )

    def acknowledge(self, alert_id: str, who: str, now: datetime) -> Alert:
        """Note that somebody has seen it; who did so first stays. Raises AlertNotFoundError."""
        unseen = ALERTS.c.acknowledged_at.is_(None)
        mine = (ALERTS.c.host == self._host, ALERTS.c.id == storable(alert_id))
        with self._database.transaction(write=True) as connection:
            connection.execute(update(ALERTS).where(*mine, unseen).values(acknowledged_at=now, acknowledged_by=who))
        return self.get(alert_id)

    def forget(self, before: datetime) -> None:
        """Drop alerts that were over before then."""
        with self._database.transaction(write=True) as connection:
            connection.execute(delete(ALERTS).where(ALERTS.c.host == self._host, ALERTS.c.resolved < before))

    def _unresolved(self, query: Any, acknowledged: bool | None) -> Any:
        query = query.where(ALERTS.c.host == self._host, ALERTS.c.resolved.is_(None))
        if acknowledged is None:
            return query
        seen = ALERTS.c.acknowledged_at
        return query.where(seen.is_not(None) if acknowledged else seen.is_(None))

    def _row(self, condition: Condition, now: datetime) -> dict[str, Any]:
        return {
            "id": uuid4().hex,
            "host": self._host,
            "kind": condition.kind,
            "subject_kind": condition.subject.kind,
            "subject_key": condition.subject.key,
            "subject_uuid": condition.subject.uuid,
            "raised": now,
            "last_seen": now,
            **_told(condition),
        }


def _told(condition: Condition) -> dict[str, Any]:
    return {
        "severity": condition.severity,
        "rank": _RANKS[condition.severity],
        "subject_name": condition.subject.name,
        "facts": json.dumps(dict(condition.facts)),
    }


def _alert(row: Row[Any]) -> Alert:
    return Alert(
        id=row.id,
        kind=row.kind,
        severity=row.severity,
        subject=Subject(row.subject_kind, row.subject_name, row.subject_uuid),
        host=row.host,
        raised=row.raised,
        last_seen=row.last_seen,
        resolved=row.resolved,
        acknowledged_at=row.acknowledged_at,
        acknowledged_by=row.acknowledged_by,
        facts=json.loads(row.facts),
    )
