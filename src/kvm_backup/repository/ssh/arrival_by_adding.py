"""How a point arrives where the key may only add (scripts/kvm-backup-add-only).

Its files grow in `.incoming-<time>-<token>`, each in place, so that a cut costs nothing: the next attempt appends to
what is there without reading it. rsync compares the whole with its checksum; one rename, which the server makes on
request, makes the point. The server renames nothing onto what is there, and only what no rsync can write to any more.
"""

from kvm_backup.domain.errors import RepositoryFormatError
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository.ssh.account import ADD_ONLY
from kvm_backup.repository.ssh.arrival_by_rsync import differing, require_parent
from kvm_backup.repository.ssh.connection import patience_for
from kvm_backup.repository.ssh.shipment import Shipment, Shipped
from kvm_backup.repository.ssh.transfer import Transfer

_THERE_ALREADY = f"{ADD_ONLY}: there already"


def ship(transfer: Transfer, shipment: Shipment) -> Shipped:
    """Bring a point that is not there to the server.

    Raises BrokenChainError when its parent is not there, DamagedPointError when it is damaged here or does not arrive
    as it is here, RepositoryFormatError when something else has its name there, PointChangedError,
    RemoteUnreachableError and its like, and what the watch raises.
    """
    require_parent(transfer, shipment)
    address = transfer.connection.address
    folder = shipment.manifest.folder
    hidden = transfer.incoming(shipment.manifest.stamp)
    incoming = address.below(folder, hidden)
    moved = transfer.up(shipment.folder, incoming, "--append", *shipment.only())
    repaired = differing(transfer, shipment, incoming)
    if repaired:
        how = ("--inplace", "--ignore-times", "--no-whole-file", shipment.block_size())
        moved += transfer.up(shipment.folder, incoming, *how, *shipment.only(*repaired))
        if still := differing(transfer, shipment, incoming):
            raise shipment.damaged(str(address), still, transfer.watch.check)
    # It is what is here: that this is what the manifest says, nobody there can tell.
    shipment.check_files(transfer.watch.check)
    _publish(transfer, shipment, hidden)
    return Shipped(moved, repaired=tuple(repaired))


def _publish(transfer: Transfer, shipment: Shipment, hidden: str) -> None:
    words = ("publish", shipment.manifest.folder, hidden, shipment.manifest.stamp)
    done = transfer.connection.ask(ADD_ONLY, *words, watch=transfer.watch.check, timeout=patience_for(shipment.size))
    if done.status == 0:
        return
    if _THERE_ALREADY in done.stderr:
        place = transfer.connection.address
        raise RepositoryFormatError(
            phrase("{id} was changed at {place} meanwhile", id=shipment.manifest.id, place=place),
            hint=phrase("Something else writes to that repository; nothing was replaced."),
            vm=shipment.manifest.vm_name,
        )
    raise transfer.connection.failure(done)
