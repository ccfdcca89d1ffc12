"""A server whose rsync stands still in one of its two processes, while the other one still sends signs of life."""

import os
import signal

import pytest

from kvm_backup.domain.bandwidth import BandwidthPlan
from kvm_backup.domain.errors import RemoteUnreachableError
from kvm_backup.repository.ssh import transfer
from kvm_backup.repository.ssh.remote import Remote
from kvm_backup.repository.ssh.transfer import NoWatch
from tests.integration.ship.points import TOKEN, big_shipment, files_of
from tests.integration.ship.servers import Server
from tests.unit.builders import Shelf

SIZE = 4 << 20
LIMIT = 1 << 20
"""Bytes a second, so that it can be stopped half-way."""


class StopsOne(NoWatch):
    """Stops one process of the server's rsync once so much has crossed."""

    def __init__(self, server: Server, which: int) -> None:
        self._server = server
        self._which = which
        self.stopped: int | None = None

    def reached(self, total: int) -> None:
        if self.stopped is None and total > SIZE // 3:
            receiving = sorted(self._server.serving("rsync"))
            assert len(receiving) == 2
            self.stopped = receiving[self._which]
            os.kill(self.stopped, signal.SIGSTOP)


@pytest.mark.parametrize(("account", "which"), [("shell", 0), ("shell", 1), ("rrsync", 1), ("keeper", 1)])
def test_a_server_of_which_one_half_of_rsync_stands_still_is_given_up_for_now_and_gets_the_rest_later(
    server: Server, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, account: str, which: int
) -> None:
    monkeypatch.setattr(transfer, "SILENCE", 2)
    monkeypatch.setattr(transfer, "_MARGIN", 1)
    with Remote(server.address("shell"), config=server.config) as remote:
        remote.found(shelf.root)
    shipment = big_shipment(shelf, os.urandom(SIZE))
    address, watch = server.address(account), StopsOne(server, which)
    with (
        Remote(address, config=server.config, token=TOKEN, watch=watch, plan=BandwidthPlan(LIMIT)) as remote,
        pytest.raises(RemoteUnreachableError) as told,
    ):
        remote.ship(shipment)
    assert told.value.retryable
    assert watch.stopped is not None
    os.kill(watch.stopped, signal.SIGKILL)
    assert not (server.store / shipment.manifest.id).exists()
    with Remote(address, config=server.config, token=TOKEN) as remote:
        remote.ship(shipment)
    assert files_of(server.store / shipment.manifest.id) == files_of(shipment.folder)
