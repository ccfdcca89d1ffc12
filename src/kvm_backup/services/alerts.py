"""Alerts as front ends see them, and their evaluation by the service.

That the service itself does not tick is found by whoever asks: a service that is dead writes nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from kvm_backup.database.alerts import Alerts
from kvm_backup.domain.alert import (
    Alert,
    AlertKind,
    Changes,
    Condition,
    Damage,
    Severity,
    Situation,
    compare,
    conditions,
    damage_of,
)

NOT_TICKING = "daemon-not-ticking"
"""The id of that alert as long as nobody could write it down."""


@dataclass(slots=True)
class AlertService:
    """`daemon` gives what is wrong with the service, None while it ticks. Every method raises DatabaseError."""

    store: Alerts
    daemon: Callable[[], Condition | None]
    host: str
    clock: Callable[[], datetime]
    revision: int = 0
    """Another one once this process changed an alert."""

    def open(self, *, acknowledged: bool | None = None, offset: int = 0, limit: int = 50) -> list[Alert]:
        """What is not over: the unacknowledged first, then the most severe, then the newest."""
        found = self.store.open(acknowledged=acknowledged, offset=offset, limit=limit)
        condition = self.daemon()
        if condition is None:
            # It ticks again, and resolves its own alert with its next look.
            return [alert for alert in found if alert.kind is not AlertKind.DAEMON_NOT_TICKING]
        if offset == 0 and not acknowledged and not self.store.of_kind(AlertKind.DAEMON_NOT_TICKING):
            found.insert(0, self._unwritten(condition))
        return found

    def count_open(self, *, acknowledged: bool | None = None) -> int:
        """How many `open` would list in all."""
        counted = self.store.count_open(acknowledged=acknowledged)
        held = self.store.of_kind(AlertKind.DAEMON_NOT_TICKING)
        if self.daemon() is not None:
            return counted + (not held and not acknowledged)
        return counted - sum(acknowledged in (None, alert.acknowledged_at is not None) for alert in held)

    def count_open_unacknowledged(self) -> int:
        """What the badge shows."""
        return self.count_open(acknowledged=False)

    def counts(self) -> dict[tuple[AlertKind, Severity], int]:
        """How many are not over, by kind and severity, as the service last wrote them."""
        return self.store.counts()

    def get(self, alert_id: str) -> Alert:
        """One alert, over or not. Raises AlertNotFoundError."""
        condition = self.daemon() if alert_id == NOT_TICKING else None
        return self.store.get(alert_id) if condition is None else self._unwritten(condition)

    def acknowledge(self, alert_id: str, who: str) -> Alert:
        """Note that somebody has seen it: it no longer counts, until it is over and comes back.

        Doing so twice changes nothing. Raises AlertNotFoundError.
        """
        now = self.clock()
        condition = self.daemon() if alert_id == NOT_TICKING else None
        if condition is not None:
            self.store.apply(Changes([condition], [], []), now)
            alert_id = self.store.of_kind(AlertKind.DAEMON_NOT_TICKING)[0].id
        acknowledged = self.store.acknowledge(alert_id, who, now)
        self.revision += 1
        return acknowledged

    def history(self, *, offset: int = 0, limit: int = 50) -> list[Alert]:
        """All alerts, over or not, the newest first."""
        return self.store.history(offset=offset, limit=limit)

    def count_history(self) -> int:
        """How many `history` would list in all."""
        return self.store.count_history()

    # The service's side

    def evaluate(self, situation: Situation) -> bool:
        """Raise what is new, resolve what is over; whether anything changed."""
        known = self.store.open()
        found = [*conditions(situation, known), *filter(None, [self.daemon()])]
        changes = compare(known, found)
        self.store.apply(changes, self.clock())
        changed = bool(changes.new or changes.changed or changes.over)
        self.revision += changed
        return changed

    def forget_old(self, before: datetime) -> None:
        """Drop alerts that were over before then."""
        self.store.forget(before)

    def known_damages(self) -> list[Damage]:
        """The damaged points that open alerts tell of."""
        return [damage for alert in self.store.of_kind(AlertKind.DAMAGED_POINT) if (damage := damage_of(alert))]

    def _unwritten(self, condition: Condition) -> Alert:
        now = self.clock()
        return Alert(
            id=NOT_TICKING,
            kind=condition.kind,
            severity=condition.severity,
            subject=condition.subject,
            host=self.host,
            raised=now,
            last_seen=now,
            facts=condition.facts,
        )
