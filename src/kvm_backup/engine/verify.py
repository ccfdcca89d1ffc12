"""Is an image file still what was written? Says what is damaged, where in the file, and where on the disk."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from kvm_backup.domain.errors import DamagedImageError
from kvm_backup.domain.phrase import phrase
from kvm_backup.engine.chain import RunReader, StoredCluster, in_runs
from kvm_backup.engine.copy import CopyControl, Throttle
from kvm_backup.engine.digest import image_sha256
from kvm_backup.engine.qcow2.format import CLUSTER_SIZE, L2_ENTRIES, Identity, damaged
from kvm_backup.engine.qcow2.reader import ImageFile
from kvm_backup.engine.run_pool import Work, for_each_run

_MAX_REPORTED = 1000
"""A file of rubbish has a damage for each cluster; nobody reads more than this."""


class DamageKind(StrEnum):
    MISSING = "missing"
    DIGEST = "digest"
    """The file's bytes are not those that were written."""
    FOREIGN = "foreign"
    """The file belongs to another disk or restore point."""
    SIZE = "size"
    """The file goes on behind its last table."""
    STRUCTURE = "structure"
    """A header or table breaks the format."""
    CLUSTER = "cluster"
    """A cluster's data does not decompress to what was compressed."""


@dataclass(frozen=True, slots=True)
class Damage:
    kind: DamageKind
    message: str
    file_offset: int | None = None
    """Byte of the file, where known."""
    disk_offset: int | None = None
    """Byte of the guest's disk, where known: the first of the 64 KiB or (for a table) 512 MiB that are affected."""


def check_image(
    path: Path,
    *,
    expected_sha256: str | None,
    expected_identity: Identity | None,
    deep: bool,
    control: CopyControl,
) -> list[Damage]:
    """All damages of a file, the digest's first; empty when it is whole.

    Tables are always checked; clusters are decompressed when `deep`, or when the digest (see engine/digest.py)
    differs. With a digest any changed bit is found; without one those in padding and refcounts are not.
    `control.advance` is told bytes of the file digested, then bytes of disk decompressed. Raises StorageError when
    the file cannot be read, and what `control.check` raises.
    """
    if not path.exists():
        return [Damage(DamageKind.MISSING, phrase("{path} is missing", path=path))]
    damages: list[Damage] = []
    if expected_sha256 is not None and (actual := image_sha256(path, control)) != expected_sha256:
        damages.append(
            Damage(
                DamageKind.DIGEST,
                phrase(
                    "{path} is not as it was written: its SHA-256 is {actual}, not {expected}",
                    path=path,
                    actual=actual,
                    expected=expected_sha256,
                ),
            )
        )
    try:
        image = ImageFile.open(path)
    except DamagedImageError as error:
        return [*damages, Damage(DamageKind.STRUCTURE, f"{path}: {error.message}", file_offset=0)]
    with image:
        damages += _check_header(image, expected_identity)
        _check_clusters(image, damages, decompress=deep or bool(damages), control=control)
    return damages


def _check_header(image: ImageFile, expected: Identity | None) -> Iterator[Damage]:
    header = image.header
    if expected is not None and header.identity != expected:
        yield Damage(
            DamageKind.FOREIGN,
            phrase(
                "{path} holds {found}, expected {expected}",
                path=image.path,
                found=str(header.identity) if header.identity else phrase("no identity"),
                expected=str(expected),
            ),
            file_offset=0,
        )
    # Our writer ends a file with its refcount table.
    end = header.refcount_table_offset + header.refcount_table_clusters * CLUSTER_SIZE
    if image.size > end:
        behind = phrase("{path} has {bytes} bytes behind its end", path=image.path, bytes=image.size - end)
        yield Damage(DamageKind.SIZE, behind, file_offset=end)


def _check_clusters(image: ImageFile, damages: list[Damage], *, decompress: bool, control: CopyControl) -> None:
    throttle = Throttle(control)

    def sound_clusters() -> Iterator[StoredCluster]:
        for l2_index in range(image.l2_tables):
            throttle.check()
            if image.has_l2(l2_index) and len(damages) < _MAX_REPORTED:
                yield from _sound_entries(image, l2_index, damages)

    def work_for(run: list[StoredCluster]) -> Work:
        return lambda reader: damages.extend(_broken_clusters(reader, run))

    if decompress:
        for_each_run(in_runs(sound_clusters()), work_for, control)
    else:
        for _ in sound_clusters():
            throttle.check()
    del damages[_MAX_REPORTED:]


def _sound_entries(image: ImageFile, l2_index: int, damages: list[Damage]) -> Iterator[StoredCluster]:
    """The clusters of an L2 table; what is wrong with the others is added to `damages`."""
    first = l2_index * L2_ENTRIES
    try:
        table = image.read_l2(l2_index)
    except DamagedImageError as error:
        damages.append(
            Damage(DamageKind.STRUCTURE, f"{image.path}: {error.message}", disk_offset=first * CLUSTER_SIZE)
        )
        return
    for index, entry in enumerate(table):
        cluster = first + index
        try:
            place = image.data_range(entry)
            if entry and cluster >= image.clusters:
                raise damaged("an L2 table maps clusters behind the end of the disk")
        except DamagedImageError as error:
            damages.append(
                Damage(DamageKind.STRUCTURE, f"{image.path}: {error.message}", disk_offset=cluster * CLUSTER_SIZE)
            )
            continue
        if place:
            yield StoredCluster(cluster, image, entry, *place)


def _broken_clusters(reader: RunReader, run: list[StoredCluster]) -> Iterator[Damage]:
    try:
        reader.read(run)
    except DamagedImageError:
        # Each by itself now: the run ended at its first damage.
        for stored in run:
            try:
                reader.read([stored])
            except DamagedImageError as error:
                yield Damage(
                    DamageKind.CLUSTER, error.message, file_offset=stored.offset, disk_offset=stored.disk_offset
                )
