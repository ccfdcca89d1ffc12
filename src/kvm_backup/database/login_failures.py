"""Wrong passwords of late, by account and by address, so that they cannot be tried without end.

They are kept in the database: starting the service again forgets none.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from kvm_backup.database.engine import Database
from kvm_backup.database.tables import KNOWN_ADDRESSES, LOGIN_FAILURES
from kvm_backup.domain.sign_in_limit import FORGOTTEN_AFTER, Limit


class LoginFailures:
    """Attempts to sign in. `clock` gives the time in UTC. Every method may raise DatabaseError."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def begin(self, limits: Mapping[str, Limit]) -> int:
        """Count an attempt before its password is checked, so that many at once are many, too.

        Returns 0, or how many seconds to wait, and then nothing was counted: waiting does not get longer by trying.
        """
        now = self._clock()
        with self._database.transaction(write=True) as connection:
            connection.execute(delete(LOGIN_FAILURES).where(LOGIN_FAILURES.c.last <= now - FORGOTTEN_AFTER))
            insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
            for key in sorted(limits):  # in one order, so that two never wait for each other
                row = {"key": key, "failures": 0, "last": now}
                connection.execute(insert(LOGIN_FAILURES).values(row).on_conflict_do_nothing())
            ours = LOGIN_FAILURES.c.key.in_(limits)
            held = select(LOGIN_FAILURES).where(ours).order_by(LOGIN_FAILURES.c.key).with_for_update()
            waits = [limits[row.key].wait(row.failures, row.last, now) for row in connection.execute(held)]
            if any(waits):
                return max(waits)
            counted = update(LOGIN_FAILURES).where(ours)
            connection.execute(counted.values(failures=LOGIN_FAILURES.c.failures + 1, last=now))
            return 0

    def succeeded(self, forgiven: Iterable[str], given_back: Iterable[str]) -> None:
        """The password was right: all failures of some keys are forgotten, and others get this attempt back."""
        back = LOGIN_FAILURES.c.key.in_(sorted(given_back)) & (LOGIN_FAILURES.c.failures > 0)
        with self._database.transaction(write=True) as connection:
            connection.execute(update(LOGIN_FAILURES).where(back).values(failures=LOGIN_FAILURES.c.failures - 1))
            connection.execute(delete(LOGIN_FAILURES).where(LOGIN_FAILURES.c.key.in_(sorted(forgiven))))

    def knows(self, user_id: str, address: str, since: datetime) -> bool:
        """Whether this user signed in from there lately."""
        same = (KNOWN_ADDRESSES.c.user_id == user_id) & (KNOWN_ADDRESSES.c.address == address)
        with self._database.transaction() as connection:
            query = select(KNOWN_ADDRESSES.c.last).where(same, KNOWN_ADDRESSES.c.last > since)
            return connection.execute(query).first() is not None

    def remember(self, user_id: str, address: str) -> None:
        """This user signed in from there."""
        row = {"user_id": user_id, "address": address, "last": self._clock()}
        with self._database.transaction(write=True) as connection:
            insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
            statement = insert(KNOWN_ADDRESSES).values(row)
            keys = [KNOWN_ADDRESSES.c.user_id, KNOWN_ADDRESSES.c.address]
            connection.execute(statement.on_conflict_do_update(index_elements=keys, set_={"last": row["last"]}))

    def forget_addresses(self, before: datetime) -> None:
        """Forget from where users signed in last before that time."""
        with self._database.transaction(write=True) as connection:
            connection.execute(delete(KNOWN_ADDRESSES).where(KNOWN_ADDRESSES.c.last < before))
