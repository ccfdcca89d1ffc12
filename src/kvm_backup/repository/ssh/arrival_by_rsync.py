"""How a point arrives where the account may run nothing but rsync, perhaps only add files (rrsync -wo -no-overwrite).

Nothing there can be renamed, changed or read. So each attempt has a folder of its own, `.incoming-<time>-<number>`,
which builds on what the attempt before left; rsync compares the whole with its checksum; then the files get second
names (hard links) in the point's folder, the manifest last. A folder without a manifest is no point yet.
"""

from kvm_backup.domain.errors import RemoteSetupError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import MANIFEST_FILE
from kvm_backup.repository.ssh.scripts import INCOMING_PREFIX
from kvm_backup.repository.ssh.shipment import Shipment, Shipped
from kvm_backup.repository.ssh.transfer import Moved, Transfer

_ATTEMPTS = 50


def ship(transfer: Transfer, shipment: Shipment) -> Shipped:
    """Bring a new point to the server; when it is there already and whole, nothing crosses.

    Raises RemoteSetupError when fifty attempts lie there already, DamagedPointError when something else has that name
    there, RemoteUnreachableError and its like, and what the watch raises.
    """
    folder = transfer.connection.address.below(shipment.manifest.folder)
    final = f"{folder}/{shipment.manifest.stamp}"
    if _is_there(transfer, shipment, final):
        return Shipped(Moved(), already=True)
    moved = Moved()
    before = final
    for number in range(1, _ATTEMPTS + 1):
        incoming = f"{folder}/{INCOMING_PREFIX}{shipment.manifest.stamp}-{number}"
        moved += transfer.up(
            shipment.folder,
            incoming,
            "--mkpath",
            # Not --partial: a server that dies would keep what arrived under a name that nobody looks for.
            "--inplace",
            "--no-whole-file",
            "--ignore-times",
            "--ignore-existing",
            shipment.block_size(),
            f"--copy-dest={before}/",
            *shipment.only(),
        )
        if _is_whole(transfer, shipment, incoming):
            return Shipped(moved + _publish(transfer, shipment, incoming, final))
        before = incoming
    raise RemoteSetupError(
        phrase("{place}: {id} was cut off too often", place=transfer.connection.address, id=shipment.manifest.id),
        hint=phrase(
            "Remove the folders {prefix}… there with a key that may, then ship again.", prefix=INCOMING_PREFIX
        ),
        vm=shipment.manifest.vm_name,
    )


def _publish(transfer: Transfer, shipment: Shipment, incoming: str, final: str) -> Moved:
    data = [name for name in shipment.names if name != MANIFEST_FILE]
    linked = ["--ignore-existing", f"--link-dest={incoming}/"]
    moved = transfer.up(shipment.folder, final, *linked, *shipment.only(*data))
    moved += transfer.up(shipment.folder, final, *linked, *shipment.only(MANIFEST_FILE))
    if names := _differing(transfer, shipment, final, "--size-only"):
        raise shipment.damaged(str(transfer.connection.address), names)
    return moved


def _is_there(transfer: Transfer, shipment: Shipment, final: str) -> bool:
    # Checksums of all files cost a pass over them on this side, too: the manifest alone is asked for first.
    return not transfer.differing(
        shipment.folder, f"{final}.check", "--checksum", f"--compare-dest={final}/", *shipment.only(MANIFEST_FILE)
    ) and _is_whole(transfer, shipment, final)


def _is_whole(transfer: Transfer, shipment: Shipment, folder: str) -> bool:
    return not _differing(transfer, shipment, folder, "--size-only") and not _differing(
        transfer, shipment, folder, "--checksum"
    )


def _differing(transfer: Transfer, shipment: Shipment, folder: str, how: str) -> list[str]:
    # Into a folder that never exists, with `folder` to compare with: a server that adds only would call each file
    # fine that is there, whatever it holds.
    return transfer.differing(shipment.folder, f"{folder}.check", how, f"--compare-dest={folder}/", *shipment.only())
