"""What stays on this host of points that every remote they go to holds."""

from collections.abc import Iterable
from enum import StrEnum


class KeepLocal(StrEnum):
    """From the most that stays to the least."""

    ALL = "all"
    NEWEST_CHAIN = "newest-chain"
    """The newest point of a VM and what it builds on, so that the next backup can be an incremental one."""
    NOTHING = "nothing"


def keeps_most(wishes: Iterable[KeepLocal]) -> KeepLocal:
    """The wish that keeps the most; everything where nobody wishes anything."""
    wanted = set(wishes)
    return next((wish for wish in KeepLocal if wish in wanted), KeepLocal.ALL)
