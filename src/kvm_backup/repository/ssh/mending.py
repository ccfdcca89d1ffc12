"""What arrived otherwise than it should is sent again as a difference, once."""

from collections.abc import Callable

from kvm_backup.repository.ssh.shipment import Shipment, Shipped
from kvm_backup.repository.ssh.transfer import Moved, Transfer

Compare = Callable[[Transfer, Shipment, str], list[str]]
"""Tells which files of a point a folder on the server does not hold as they should be."""


def mended(transfer: Transfer, shipment: Shipment, incoming: str, differing: Compare, moved: Moved) -> Shipped:
    """Make sure that the folder `incoming` there holds the point's files whole; `moved` is what crossed before.

    Raises DamagedPointError when they still differ, or are damaged here, PointChangedError, RemoteUnreachableError
    and its like, and what the watch raises.
    """
    wrong = differing(transfer, shipment, incoming)
    if wrong:
        moved += transfer.up(shipment.folder, incoming, *shipment.as_delta(), *shipment.only(*wrong))
        if still := differing(transfer, shipment, incoming):
            raise shipment.damaged(str(transfer.connection.address), still, transfer.watch.check)
    return Shipped(moved, repaired=tuple(wrong))
