"""One incremental point becomes a full one, under the same name and identity, so that its parents can go.

A complete new folder is made beside the old one, then the two change places in one step: whenever this is killed,
the point is either what it was or what it shall be. Children stay as they are, for they name their parent by its
id and UUID, and their backing file by its path.
"""

import contextlib
import os
from pathlib import Path

from kvm_backup.domain.errors import DamagedPointError, KvmBackupError
from kvm_backup.domain.point import MANIFEST_FILE, DiskMode, Manifest, Mode, StoredDisk, StoredFile, serialize
from kvm_backup.engine.consolidate import ConsolidatedImage, consolidate_chain, planned_image_bytes
from kvm_backup.engine.copy import CopyControl
from kvm_backup.engine.qcow2.format import Identity
from kvm_backup.repository import durable
from kvm_backup.repository.exchange import CONSOLIDATE_PREFIX, exchange
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services.links import Link, check_link, disk_links

_SMALL_FILE_MAX = 256 * 1024 * 1024


def links_to_merge(repository: LocalRepository, manifest: Manifest) -> dict[str, list[Link]]:
    """The files, full one first, that each incremental disk of a point is read from. Raises BrokenChainError."""
    chain = repository.chain(manifest)
    return {
        disk.target: disk_links(repository, chain, disk.target)
        for disk in manifest.disks
        if disk.mode is DiskMode.INCREMENTAL
    }


def planned_bytes(links: dict[str, list[Link]]) -> int:
    """About how many bytes the point's disks take as full images. Raises DamagedImageError, StorageError."""
    return sum(planned_image_bytes([link.path for link in chain]) for chain in links.values())


def damaged_links(links: dict[str, list[Link]], control: CopyControl) -> dict[str, str]:
    """Reads every file (invariant 4); what is wrong with them, by the id of the point that each belongs to.

    Raises StorageError, and what `control.check` raises.
    """
    damaged: dict[str, str] = {}
    for link in (link for chain in links.values() for link in chain):
        try:
            check_link(link, control)
        except DamagedPointError as error:
            damaged.setdefault(link.manifest.id, error.message)
    return damaged


def consolidate_point(
    repository: LocalRepository, manifest: Manifest, links: dict[str, list[Link]], *, level: int, control: CopyControl
) -> Manifest:
    """Make the point a full one; returns its new manifest. The caller holds the VM's lock and has verified `links`.

    `control.advance` is told bytes read. Raises StorageError, NoSpaceError, DamagedImageError, and what
    `control.check` raises; the point is then as it was.
    """
    final = repository.path_of(manifest.id)
    fresh = final.with_name(f"{CONSOLIDATE_PREFIX}{final.name}")
    durable.remove_tree(fresh)
    try:
        try:
            fresh.mkdir(mode=0o700)
        except OSError as error:
            raise durable.storage_error(error, fresh) from error
        disks = tuple(
            _disk(manifest, disk, links.get(disk.target), final, fresh, level, control) for disk in manifest.disks
        )
        for stored in manifest.files:
            _same_file(stored, final, fresh)
        made = _full(manifest, disks)
        durable.write_new(fresh / MANIFEST_FILE, serialize(made))
        durable.sync_folder(fresh)
    except BaseException:
        with contextlib.suppress(KvmBackupError):
            durable.remove_tree(fresh)
        raise
    # When this fails, nobody knows which folder a power cut would leave: both stay, until the next prune.
    durable.remove_tree(exchange(fresh, final))
    return made


def _full(manifest: Manifest, disks: tuple[StoredDisk, ...]) -> Manifest:
    changes = {"mode": Mode.FULL, "parent": None, "parent_uuid": None, "disks": disks}
    return Manifest(**dict(manifest) | changes)


def _disk(
    manifest: Manifest,
    disk: StoredDisk,
    links: list[Link] | None,
    final: Path,
    fresh: Path,
    level: int,
    control: CopyControl,
) -> StoredDisk:
    if disk.file is None:
        return disk
    sources = [final / disk.file] if links is None else [link.path for link in links]
    if links is None and _linked(sources[0], fresh / disk.file):
        return disk
    image: ConsolidatedImage = consolidate_chain(
        sources,
        fresh / disk.file,
        identity=Identity(point=manifest.identity, disk=disk.target, parent=None),
        control=control,
        level=level,
    )
    changes = {"image_sha256": image.sha256, "bytes_stored": image.bytes_stored}
    if disk.mode is DiskMode.INCREMENTAL:
        changes |= {"mode": DiskMode.FULL}
    return StoredDisk(**dict(disk) | changes)


def _same_file(stored: StoredFile, final: Path, fresh: Path) -> None:
    if not _linked(final / stored.name, fresh / stored.name):
        durable.write_new(fresh / stored.name, durable.read_limited(final / stored.name, _SMALL_FILE_MAX))


def _linked(source: Path, target: Path) -> bool:
    """Give a file that stays as it is a second name; false where the file system cannot."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        return False
    return True
