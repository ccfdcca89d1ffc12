"""A server may take so long and no longer while somebody waits for it on a page."""

import pytest

from kvm_backup.domain.errors import RemoteUnreachableError
from kvm_backup.services.remotes.deadline import Deadline


def test_a_transfer_is_ended_once_the_time_is_over() -> None:
    now = 5.0
    deadline = Deadline(100, "Ask at the console.", lambda: now)
    now = 105.0
    deadline.reached(1 << 40)
    deadline.check()
    now = 105.1
    with pytest.raises(RemoteUnreachableError, match="longer than 100 seconds") as caught:
        deadline.check()
    assert caught.value.hint == "Ask at the console."
