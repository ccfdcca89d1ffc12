"""How a point arrives where the key may only add (scripts/kvm-backup-add-only).

Its files grow in `.incoming-<time>-<token>`, each in place, so that a cut costs nothing: the next attempt appends to
what is there without reading it. rsync compares the whole with its checksum; one rename, which the server makes on
request, makes the point. The server renames nothing onto what is there, and only what no rsync can write to any more.
"""

from kvm_backup.repository.ssh.account import ADD_ONLY
from kvm_backup.repository.ssh.arrival_by_rsync import differing, require_parent
from kvm_backup.repository.ssh.connection import patience_for
from kvm_backup.repository.ssh.mending import mended
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
    shipped = mended(transfer, shipment, incoming, differing, moved)
    # It is what is here: that this is what the manifest says, nobody there can tell.
    shipment.check_files(transfer.watch.check)
    _publish(transfer, shipment, hidden)
    return shipped


def _publish(transfer: Transfer, shipment: Shipment, hidden: str) -> None:
    words = ("publish", shipment.manifest.folder, hidden, shipment.manifest.stamp)
    done = transfer.connection.ask(ADD_ONLY, *words, watch=transfer.watch.check, timeout=patience_for(shipment.size))
    if done.status == 0:
        return
    if _THERE_ALREADY in done.stderr:
        raise shipment.changed_there(str(transfer.connection.address))
    raise transfer.connection.failure(done)
