"""Restore points for tests: manifests as values, and whole ones on disk, written with the engine's own writer."""

import hashlib
import json
import random
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kvm_backup.domain.names import disk_file
from kvm_backup.domain.point import Consistency, DiskMode, Manifest, Mode, StoredDisk, StoredFile
from kvm_backup.engine.append_file import AppendFile
from kvm_backup.engine.compress import ClusterCompressor
from kvm_backup.engine.copy import NoControl
from kvm_backup.engine.qcow2.format import CLUSTER_SIZE, Identity
from kvm_backup.engine.qcow2.writer import Qcow2Writer
from kvm_backup.repository.durable import write_new
from kvm_backup.repository.local import LocalRepository

MOMENT = datetime(2026, 11, 22, 2, 0, 0, tzinfo=UTC)
VM_UUID = "1a2b3c4d-0000-4000-8000-000000000001"
REPOSITORY_ID = "99999999-0000-4000-8000-000000000009"
XML = b"<domain type='qemu'><name>web</name></domain>\n"
DISK_CLUSTERS = 8


def a_disk(target: str = "vda", **changes: Any) -> StoredDisk:
    """A full disk of 8 clusters."""
    fields: dict[str, Any] = {
        "target": target,
        "mode": DiskMode.FULL,
        "virtual_size": DISK_CLUSTERS * CLUSTER_SIZE,
        "source_format": "qcow2",
        "source_path": f"/images/{target}.qcow2",
        "file": disk_file(target),
        "image_sha256": "ab" * 32,
        "bytes_read": 1000,
        "bytes_stored": 500,
    }
    return StoredDisk(**fields | changes)


def a_manifest(**changes: Any) -> Manifest:
    """A full point of the VM web."""
    fields: dict[str, Any] = {
        "id": "web--1a2b3c4d/20261122T020000Z",
        "uuid": "00000000-0000-4000-8000-00000000000f",
        "repository": REPOSITORY_ID,
        "vm_name": "web",
        "vm_uuid": VM_UUID,
        "created": MOMENT,
        "finished": MOMENT + timedelta(seconds=3),
        "mode": Mode.FULL,
        "requested_mode": Mode.FULL,
        "checkpoint": "kvm-backup-99999999-20261122T020000Z",
        "consistency": Consistency.FILESYSTEM,
        "disks": (a_disk(),),
        "files": (StoredFile(name="domain.xml", bytes=len(XML), sha256=hashlib.sha256(XML).hexdigest()),),
        "tool_version": "0.1.0",
    }
    return Manifest(**fields | changes)


def signed(text: str) -> bytes:
    """What somebody who can compute a digest would write: `text` with its digest, which is DIGEST in it."""
    blank = text.replace("DIGEST", "0" * 64).encode()
    return text.replace("DIGEST", hashlib.sha256(blank).hexdigest()).encode()


def forged(manifest: Manifest, **changes: Any) -> bytes:
    """A manifest with other fields and a right digest; a change to `...` leaves the field out."""
    fields = {**manifest.model_dump(mode="json"), **changes, "digest": "DIGEST"}
    return signed(json.dumps({key: value for key, value in fields.items() if value is not ...}, indent=2))


@dataclass
class Shelf:
    """A repository in a folder, and points of one VM that are written whole."""

    root: Path
    vm_name: str = "web"
    vm_uuid: str = VM_UUID
    clusters: int = DISK_CLUSTERS
    repository: LocalRepository = field(init=False)
    _next: datetime = MOMENT

    def __post_init__(self) -> None:
        exists = (self.root / "kvm-backup.json").exists()
        make = LocalRepository.open if exists else LocalRepository.create
        self.repository = make("shelf", self.root)

    def add(
        self,
        parent: Manifest | None = None,
        *,
        targets: tuple[str, ...] = ("vda",),
        seed: int = 1,
        every: int = 2,
        **changes: Any,
    ) -> Manifest:
        """Publish a full point, or an incremental one on `parent`; each second cluster of a disk, or whichever one
        `every` says, holds data.
        """
        partial = self.repository.begin_point(self.vm_name, self.vm_uuid, self._next)
        self._next += timedelta(hours=1)
        point_id = f"{partial.parent.name}/{partial.name.removeprefix('.partial-')}"
        point_uuid = str(uuid.UUID(int=random.Random(f"{point_id}{seed}").getrandbits(128), version=4))
        mode = DiskMode.FULL if parent is None else DiskMode.INCREMENTAL
        disks = tuple(
            a_disk(target, mode=mode, **self._write(partial, target, f"{point_id}@{point_uuid}", parent, seed, every))
            for target in targets
        )
        digest = write_new(partial / "domain.xml", XML)
        fields: Mapping[str, Any] = {
            "id": point_id,
            "uuid": point_uuid,
            "repository": self.repository.id,
            "vm_name": self.vm_name,
            "vm_uuid": self.vm_uuid,
            "mode": Mode.FULL if parent is None else Mode.INCREMENTAL,
            "requested_mode": Mode.INCREMENTAL,
            "parent": parent.id if parent else None,
            "parent_uuid": parent.uuid if parent else None,
            "disks": disks,
            "files": (StoredFile(name="domain.xml", bytes=len(XML), sha256=digest),),
        }
        manifest = a_manifest(**{**fields, **changes})
        self.repository.publish(partial, manifest)
        return manifest

    def path(self, manifest: Manifest, name: str = "vda.qcow2") -> Path:
        """A file of a point."""
        return self.repository.path_of(manifest.id) / name

    def replace_manifest(self, manifest: Manifest, content: bytes) -> None:
        """Write other bytes where the point's manifest is."""
        self.path(manifest, "manifest.json").write_bytes(content)

    def _write(
        self, folder: Path, target: str, identity: str, parent: Manifest | None, seed: int, every: int
    ) -> dict[str, Any]:
        path = folder / disk_file(target)
        sink = AppendFile(path, NoControl())
        writer = Qcow2Writer(
            sink,
            self.clusters * CLUSTER_SIZE,
            compressed=True,
            backing_file=f"../{parent.stamp}/{disk_file(target)}" if parent else None,
            backing_format="qcow2" if parent else None,
            identity=Identity(identity, target, parent.identity if parent else None),
        )
        data = random.Random(f"{identity}{target}{seed}")
        held = range(0, self.clusters, every)
        for cluster in held:
            content = bytearray(data.randbytes(CLUSTER_SIZE // 8) * 8)
            frame = ClusterCompressor(1).frames(memoryview(content))[0]
            assert frame is not None
            writer.add_frame(cluster, frame)
        sha256 = sink.finish(writer.finish())
        return {
            "virtual_size": self.clusters * CLUSTER_SIZE,
            "image_sha256": sha256,
            "bytes_stored": path.stat().st_size,
            "bytes_read": len(held) * CLUSTER_SIZE,
        }


def flip_bit(path: Path, offset: int, bit: int = 0) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)
