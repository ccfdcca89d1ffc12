"""A chain of images back to a disk: raw, block device, or a qcow2 file to run a VM on."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kvm_backup.engine.chain import RunReader, StoredCluster, in_runs, stored_clusters
from kvm_backup.engine.copy import CopyControl, NoControl, Throttle
from kvm_backup.engine.qcow2.reader import ImageFile
from kvm_backup.engine.run_pool import Work, for_each_run
from kvm_backup.engine.target import Target, open_target


@dataclass(frozen=True, slots=True)
class RestoredImage:
    virtual_size: int
    """Bytes of the disk."""
    bytes_written: int
    """Bytes of the disk that were written; the rest reads as zeros."""


def planned_restore_bytes(chain: Sequence[Path], control: CopyControl | None = None) -> int:
    """Bytes of the disk that a restore writes. Reads tables only. Raises DamagedImageError, StorageError."""
    throttle = Throttle(control or NoControl())
    total = 0
    with _open_chain(chain) as images:
        for stored in stored_clusters(images):
            throttle.check()
            total += stored.valid
    return total


def restore_chain(
    chain: Sequence[Path], target: Path, *, target_format: Literal["qcow2", "raw"], control: CopyControl
) -> RestoredImage:
    """Write the disk that the chain's last image describes.

    `chain` has the base first; the backing file names in the headers are not followed. `target` is created, or is
    a block device (raw only), whose other ranges are zeroed. Every checksum of a cluster is verified.
    `control.advance` is told bytes of disk. On any error what was created is removed. Raises DamagedImageError,
    TargetExistsError, NoSpaceError, StorageError, UnsupportedDiskError, and what `control.check` raises.
    """
    with _open_chain(chain) as images:
        virtual_size = images[-1].header.virtual_size
        opened = open_target(target, virtual_size, target_format, control.check)
        try:
            written = _copy(images, opened, control)
            opened.finish()
        except BaseException:
            opened.discard()
            raise
    return RestoredImage(virtual_size, written)


def _copy(images: Sequence[ImageFile], target: Target, control: CopyControl) -> int:
    written = 0

    def work_for(run: list[StoredCluster]) -> Work:
        nonlocal written
        written += sum(stored.valid for stored in run)
        offset = target.place(run[0].cluster, len(run))

        def work(reader: RunReader) -> None:
            target.write(reader.read(run), offset)

        return work

    for_each_run(in_runs(stored_clusters(images)), work_for, control)
    return written


@contextlib.contextmanager
def _open_chain(chain: Sequence[Path]) -> Iterator[list[ImageFile]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ImageFile.open(path)) for path in chain]
