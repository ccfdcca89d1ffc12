"""What a point's own files say never leads a restore in place, which runs as root, to a file of its choice."""

import subprocess
from pathlib import Path

import pytest

from kvm_backup.domain.disk import Disk, SourceKind
from kvm_backup.domain.errors import BadArgumentError, DamagedPointError, NotConfirmedError, UnsupportedDiskError
from kvm_backup.domain.point import DiskMode, Manifest, StoredDisk, StoredFile
from kvm_backup.domain.vm import Vm, VmState
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.hypervisor.snapshots import Snapshot, SnapshotDisk
from kvm_backup.repository.durable import write_new
from kvm_backup.services.restore_in_place import (
    nvram_place,
    question_of,
    require_known_parts,
    require_own_xml,
    restore_in_place,
)
from kvm_backup.services.snapshot import frozen_image, own_overlay
from tests.unit.builders import MOMENT, REPOSITORY_ID, VM_UUID, Shelf, a_disk, a_manifest


def xml(name: str = "web", uuid: str = VM_UUID) -> str:
    return f"<domain type='kvm'><name>{name}</name><uuid>{uuid}</uuid><os><nvram>/etc/cron.d/x</nvram></os></domain>"


def test_own_xml_is_taken() -> None:
    require_own_xml(xml(), a_manifest())
    require_own_xml(xml(uuid=VM_UUID.upper()), a_manifest())


@pytest.mark.parametrize(
    "foreign",
    [xml(name="mail"), xml(uuid="1a2b3c4d-0000-4000-8000-000000000002"), xml(uuid="../../../etc/cron.d")],
    ids=["another name", "another UUID", "a path as UUID"],
)
def test_xml_of_another_vm_is_refused(foreign: str) -> None:
    with pytest.raises(DamagedPointError, match="another VM"):
        require_own_xml(foreign, a_manifest())


def test_uefi_variables_go_where_this_host_has_them() -> None:
    vm = Vm("web", VM_UUID, VmState.STOPPED, (), nvram="/srv/web.fd")
    assert nvram_place(a_manifest(), vm) == Path("/srv/web.fd")


@pytest.mark.parametrize("vm", [None, Vm("web", VM_UUID, VmState.STOPPED, ())], ids=["unknown VM", "without UEFI"])
def test_uefi_variables_go_to_libvirts_folder_otherwise(vm: Vm | None) -> None:
    assert nvram_place(a_manifest(), vm) == Path("/var/lib/libvirt/qemu/nvram/web_VARS.fd")


def test_xml_that_reaches_more_of_the_host_than_the_vm_does_is_refused() -> None:
    plain = xml()
    for part in ("<filesystem/>", "<hostdev/>", "<serial type='file'><source path='/etc/cron.d/x'/></serial>"):
        hostile = plain.replace("</domain>", f"<devices>{part}</devices></domain>")
        with pytest.raises(DamagedPointError, match="reaches parts of the host") as refused:
            require_known_parts(hostile, plain, a_manifest())
        assert "--as" in refused.value.hint
        require_known_parts(hostile, hostile, a_manifest())


@pytest.fixture
def this_host() -> Hypervisor:
    """libvirt's own driver for tests, which knows no VM of the point and none with a disk."""
    return Hypervisor.connect("test:///default")


def undefined_vm(shelf: Shelf, source_path: Path) -> Manifest:
    """A whole point of a VM that this host does not know, whose disk was at `source_path`."""
    whole = shelf.add()
    description = xml().encode()
    path = shelf.path(whole, "domain.xml")
    path.unlink()
    stored = StoredFile(name="domain.xml", bytes=len(description), sha256=write_new(path, description))
    disk = whole.disks[0].model_copy(update={"source_path": str(source_path)})
    return whole.model_copy(update={"disks": (disk,), "files": (stored,)})


def restored_in_place(shelf: Shelf, point: Manifest, host: Hypervisor, disks_in: Path | None) -> list[str]:
    """The question that is asked; the answer is no."""
    asked: list[str] = []
    with pytest.raises(NotConfirmedError):
        restore_in_place(
            shelf.repository,
            point,
            hypervisor=host,
            disks_in=disks_in,
            stop=False,
            confirm=lambda question: asked.__iadd__([question]) == [],
            listener=lambda event: None,
            stop_requested=lambda: False,
        )
    return asked


def test_no_disk_is_written_where_only_the_point_says(tmp_path: Path, this_host: Hypervisor) -> None:
    shelf = Shelf(tmp_path / "repository")
    point = undefined_vm(shelf, tmp_path / "cron.d" / "x")
    (tmp_path / "cron.d").mkdir()
    with pytest.raises(UnsupportedDiskError) as refused:
        restored_in_place(shelf, point, this_host, None)
    assert "--disks-in" in refused.value.hint
    assert list((tmp_path / "cron.d").iterdir()) == []
    chosen = tmp_path / "images"
    chosen.mkdir()
    (question,) = restored_in_place(shelf, point, this_host, chosen)
    assert f"write {chosen / 'x'}?" in question
    made_then = tmp_path / "made" / "then"
    (question,) = restored_in_place(shelf, point, this_host, made_then)
    assert f"write {made_then / 'x'}?" in question
    assert not made_then.exists()


def test_disks_do_not_go_below_a_file_and_nobody_is_asked(tmp_path: Path, this_host: Hypervisor) -> None:
    shelf = Shelf(tmp_path / "repository")
    point = undefined_vm(shelf, tmp_path / "images" / "x")
    (tmp_path / "file").touch()
    with pytest.raises(BadArgumentError) as refused:
        question_of(point, hypervisor=this_host, disks_in=tmp_path / "file" / "below", stop=False)
    assert refused.value.message == f"{tmp_path / 'file'} is not a folder"


NAME = f"kvm-backup-{REPOSITORY_ID[:8]}-20261122T020000Z"


def snapshot_point(host_path: str, name: str = NAME, source_format: str = "qcow2") -> tuple[Manifest, StoredDisk]:
    disk = a_disk(mode=DiskMode.HOST, file=None, image_sha256=None, host_path=host_path, source_format=source_format)
    return a_manifest(mode="snapshot", requested_mode="snapshot", snapshot=name, disks=(disk,)), disk


def a_vm(path: Path, uuid: str = VM_UUID) -> Vm:
    return Vm("web", uuid, VmState.STOPPED, (Disk("vda", "disk", SourceKind.FILE, str(path), "qcow2"),))


def listed(overlay: Path, name: str = NAME) -> Snapshot:
    return Snapshot(name, None, "", MOMENT, (SnapshotDisk("vda", str(overlay), None),))


def test_a_snapshots_overlay_is_the_one_that_libvirt_lists() -> None:
    point, disk = snapshot_point("/etc/shadow")
    overlay = Path("/images/a.overlay")
    assert own_overlay(point, disk, a_vm(Path("/images/a")), [listed(overlay)]) == overlay


def test_a_snapshot_that_libvirt_forgot_is_looked_for_beside_the_vms_own_disk() -> None:
    point, disk = snapshot_point("/etc/shadow")
    assert own_overlay(point, disk, a_vm(Path("/images/a")), []) == Path(f"/images/a.{NAME}")


@pytest.mark.parametrize("name", ["../../etc/shadow", "x", f"/{NAME}", f"kvm-backup-00000000-{NAME[-16:]}"])
def test_a_name_that_no_snapshot_of_the_repository_has_leads_nowhere(name: str) -> None:
    point, disk = snapshot_point("/images/a", name)
    assert own_overlay(point, disk, a_vm(Path("/images/a")), []) is None


def test_a_snapshot_of_another_vm_or_disk_leads_nowhere() -> None:
    point, disk = snapshot_point("/images/a")
    other = a_vm(Path("/images/a"), "1a2b3c4d-0000-4000-8000-000000000002")
    assert own_overlay(point, disk, other, [listed(Path("/images/o"))]) is None
    vdb = disk.model_copy(update={"target": "vdb"})
    assert own_overlay(point, vdb, a_vm(Path("/images/a")), [listed(Path("/images/o"))]) is None


def test_an_image_on_this_host_is_not_read_for_a_vm_that_libvirt_does_not_know(
    tmp_path: Path, this_host: Hypervisor
) -> None:
    secret = tmp_path / "shadow"
    secret.write_text("secret")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", f"{secret}.{NAME}", "1M"], check=True)
    assert frozen_image(this_host, *snapshot_point(str(secret), source_format="raw")) is None
