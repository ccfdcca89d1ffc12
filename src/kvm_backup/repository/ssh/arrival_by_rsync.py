"""How a point arrives where the account may run nothing but rsync, perhaps only add files (rrsync -wo -no-overwrite).

Nothing there can be renamed, changed or read. So each attempt has a folder of its own,
`.incoming-<time>-<token>-<number>`, which builds on what the attempt before left; rsync compares the whole with its
checksum; then the files get second names (hard links) in the point's folder, the manifest last. A folder without a
manifest is no point yet.

An account that may replace files gives each file of a point that is there in another state its new name in one step,
the manifest last.
"""

from enum import Enum, auto
from pathlib import Path

from kvm_backup.domain.errors import RemoteAccessError, RemoteSetupError
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository.ssh.failures import linked
from kvm_backup.repository.ssh.scripts import INCOMING_PREFIX
from kvm_backup.repository.ssh.shipment import Shipment, Shipped
from kvm_backup.repository.ssh.transfer import Moved, Transfer

_ATTEMPTS = 50


class There(Enum):
    """What the server has of a point."""

    NOTHING = auto()
    ALL = auto()
    ANOTHER = auto()
    """Another state of it, or damage."""


def look(transfer: Transfer, shipment: Shipment) -> There:
    """Find out, with checksums of all files where the manifests are the same.

    Raises PointChangedError, RemoteUnreachableError and its like, and what the watch raises.
    """
    final = _final(transfer, shipment)
    with shipment.manifest_alone() as manifest:
        if not _exists(transfer, manifest, final):
            return There.NOTHING
        if _differing(transfer, manifest, final, "--checksum"):
            return There.ANOTHER
    return There.ALL if _is_whole(transfer, shipment, final) else There.ANOTHER


def unlike(transfer: Transfer, shipment: Shipment) -> list[str]:
    """The files of a point that are not there as they are here, by checksums of all their bytes.

    Raises DamagedPointError and PointChangedError when they are not as they should be here, RemoteUnreachableError
    and its like, and what the watch raises.
    """
    shipment.check_files(transfer.watch.check)
    return differing(transfer, shipment, _final(transfer, shipment))


def require_parent(transfer: Transfer, shipment: Shipment) -> None:
    """Raises BrokenChainError when the point's parent is not there, RemoteUnreachableError and its like."""
    if shipment.parent_stamp:
        folder = transfer.connection.address.below(shipment.manifest.folder)
        with shipment.manifest_alone() as manifest:
            if not _exists(transfer, manifest, f"{folder}/{shipment.parent_stamp}"):
                raise shipment.parent_missing(str(transfer.connection.address))


def differing(transfer: Transfer, shipment: Shipment, folder: str) -> list[str]:
    """The files of the point that a folder there does not hold as they are here, by checksums of all their bytes.

    Raises RemoteUnreachableError and its like, and what the watch raises.
    """
    return _differing(transfer, shipment.folder, folder, "--checksum", *shipment.only())


def ship(transfer: Transfer, shipment: Shipment) -> Shipped:
    """Bring a point that is not there to the server.

    Raises BrokenChainError when its parent is not there, RemoteSetupError when fifty attempts lie there already,
    DamagedPointError when it is damaged here or something else has that name there, PointChangedError,
    RemoteUnreachableError and its like, and what the watch raises.
    """
    require_parent(transfer, shipment)
    final = _final(transfer, shipment)
    incoming, moved = _bring(transfer, shipment, [final])
    data = [name for name in shipment.names if name != shipment.manifest_file]
    # An attempt that died at this very place, or somebody else, may have put files there.
    clear = len(transfer.differing(shipment.folder, final, "--ignore-existing", *shipment.only(*data))) == len(data)
    as_links = ["--size-only", "--ignore-existing", f"--link-dest={incoming}/"]
    moved += transfer.up(shipment.folder, final, "--no-times", *as_links, *shipment.only(*data))
    if not clear and (names := _differing(transfer, shipment.folder, final, "--checksum", *shipment.only(*data))):
        raise shipment.damaged(str(transfer.connection.address), names, transfer.watch.check)
    return Shipped(moved + _put_manifest(transfer, shipment, incoming, final))


def replace(transfer: Transfer, shipment: Shipment, *, base: str | None = None) -> Shipped:
    """Replace a point that is there in another state, by an account that may. `base` is as of `Remote.ship`.

    Raises RemoteAccessError when it may not, RepositoryFormatError when links lead there, else as `ship`.
    """
    address = transfer.connection.address
    final = _final(transfer, shipment)
    try:
        # One that may only add may not list either: this tells before anything is sent.
        is_own = has_folder(transfer, shipment.manifest.id)
    except RemoteAccessError as error:
        raise _may_not_replace(transfer, shipment) from error
    if not is_own:
        raise linked(address, shipment.manifest.id)
    like = address.below(shipment.manifest.folder, base) if base else None
    incoming, moved = _bring(transfer, shipment, [final], like)
    data = [name for name in shipment.names if name != shipment.manifest_file]
    as_links = ["--no-times", "--checksum", f"--link-dest={incoming}/"]
    moved += transfer.up(shipment.folder, final, *as_links, *shipment.only(*data))
    moved += _put_manifest(transfer, shipment, incoming, final)
    if not _is_whole(transfer, shipment, final):
        raise _may_not_replace(transfer, shipment)
    return Shipped(moved)


def has_folder(transfer: Transfer, point_id: str) -> bool:
    """Whether the server has a folder of that point, to which no links lead.

    Raises RemoteAccessError when the account may not list, RemoteUnreachableError and its like.
    """
    folder, _ = point_id.split("/")
    way = [f"--include=/{folder}/", f"--include=/{point_id}/", "--exclude=*"]
    return f"{point_id}/" in {entry.name for entry in transfer.listed(transfer.connection.address.path, *way)}


def _bring(transfer: Transfer, shipment: Shipment, known: list[str], like: str | None = None) -> tuple[str, Moved]:
    """Bring all files to a hidden folder, whole; returns its path.

    They build on those in the folder `like`, else on what an attempt before left, else on those in `known`: rsync
    takes one file only to build on.
    """
    folder = transfer.connection.address.below(shipment.manifest.folder)
    moved = Moved()
    for number in range(1, _ATTEMPTS + 1):
        incoming = f"{folder}/{transfer.incoming(shipment.manifest.stamp)}-{number}"
        came = transfer.up(
            shipment.folder,
            incoming,
            "--mkpath",
            # In place, not --partial: a server that dies would keep what arrived under a name that nobody looks for.
            *shipment.as_delta(),
            # What was left here is told from what is arriving by the server's own clock.
            "--no-times",
            "--ignore-existing",
            *(f"--copy-dest={place}/" for place in ([like] if like else []) + known),
            *shipment.only(),
        )
        moved += came
        # What another attempt left is known by its size; only then is all of it read.
        left = not came.literal and not came.matched
        if not (left and _differing(transfer, shipment.folder, incoming, "--size-only", *shipment.only())) and (
            _is_whole(transfer, shipment, incoming)
        ):
            # It is what is here: that this is what the manifest says, nobody there can tell.
            shipment.check_files(transfer.watch.check)
            return incoming, moved
        known = [incoming, *known]
    raise RemoteSetupError(
        phrase("{place}: {id} was cut off too often", place=transfer.connection.address, id=shipment.manifest.id),
        hint=phrase(
            "Remove the folders {prefix}… there with a key that may, then ship again.", prefix=INCOMING_PREFIX
        ),
        vm=shipment.manifest.vm_name,
    )


def _put_manifest(transfer: Transfer, shipment: Shipment, incoming: str, final: str) -> Moved:
    shipment.check_unchanged()
    with shipment.manifest_alone() as manifest:
        return transfer.up(manifest, final, "--no-times", "--checksum", f"--link-dest={incoming}/")


def _may_not_replace(transfer: Transfer, shipment: Shipment) -> RemoteAccessError:
    return RemoteAccessError(
        phrase(
            "{place}: {id} is there in another state, or damaged, and this account cannot replace it",
            place=transfer.connection.address,
            id=shipment.manifest.id,
        ),
        hint=phrase("Give the settings of this repository a prune_url: an account that may replace and remove."),
        vm=shipment.manifest.vm_name,
    )


def _final(transfer: Transfer, shipment: Shipment) -> str:
    return transfer.connection.address.below(shipment.manifest.id)


def _exists(transfer: Transfer, source: Path, folder: str) -> bool:
    return not transfer.differing(source, folder, "--ignore-existing")


def _is_whole(transfer: Transfer, shipment: Shipment, folder: str) -> bool:
    return not differing(transfer, shipment, folder)


def _differing(transfer: Transfer, source: Path, folder: str, how: str, *options: str) -> list[str]:
    # Into a folder that never exists, with `folder` to compare with: a server that adds only would call each file
    # fine that is there, whatever it holds.
    return transfer.differing(source, f"{folder}.check", how, f"--compare-dest={folder}/", *options)
