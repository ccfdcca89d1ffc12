"""Points to ship whose images are of any size, and what damages them."""

import os
import subprocess
from pathlib import Path

from kvm_backup.domain.point import Manifest, Mode, serialize
from kvm_backup.repository.ssh.shipment import Shipment
from tests.unit.builders import Shelf, a_disk

TOKEN = "0123456789abcdef" * 2
"""Of a host that ships more than once."""


def arriving(manifest: Manifest) -> str:
    """The hidden folder on the server in which a point of that host grows."""
    return f"{manifest.folder}/.incoming-{manifest.stamp}-{TOKEN}"


def shipment_of(shelf: Shelf, manifest: Manifest) -> Shipment:
    return Shipment(shelf.repository.path_of(manifest.id), manifest)


def big_shipment(shelf: Shelf, content: bytes) -> Shipment:
    """A point whose image is `content`; nothing of rsync or ssh looks into it."""
    manifest = shelf.add()
    path = shelf.path(manifest)
    path.write_bytes(content)
    digest = by_hand(path)
    grown = manifest.model_copy(update={"disks": (a_disk(image_sha256=digest, bytes_stored=len(content)),)})
    shelf.replace_manifest(manifest, serialize(grown))
    return Shipment(path.parent, grown)


def by_hand(path: Path) -> str:
    script = '(tail -c +65537 "$1"; head -c 65536 "$1") | sha256sum'
    told = subprocess.run(["sh", "-c", script, "sh", path], check=True, capture_output=True, text=True).stdout
    return told.split()[0]


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def flip(path: Path, offset: int) -> None:
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replaced_by_full(shelf: Shelf, child: Shipment, content: bytes) -> Shipment:
    path = child.folder / "vda.qcow2"
    path.write_bytes(content)
    manifest = child.manifest.model_copy(
        update={
            "mode": Mode.FULL,
            "parent": None,
            "parent_uuid": None,
            "disks": (a_disk(image_sha256=by_hand(path), bytes_stored=len(content)),),
        }
    )
    shelf.replace_manifest(manifest, serialize(manifest))
    return Shipment(child.folder, manifest)
