"""Which disks belong in a restore point."""

import pytest

from kvm_backup.domain.disk import Disk, LeftOut, SourceKind, why_left_out
from kvm_backup.domain.vm import Vm, VmState

NOTHING: frozenset[str] = frozenset()


def a_disk(
    device: str = "disk",
    kind: SourceKind = SourceKind.FILE,
    image_format: str = "qcow2",
    *,
    read_only: bool = False,
    shareable: bool = False,
) -> Disk:
    return Disk("vda", device, kind, "/x", image_format, read_only=read_only, shareable=shareable)


@pytest.mark.parametrize("kind", [SourceKind.FILE, SourceKind.BLOCK, SourceKind.OTHER])
def test_an_ordinary_disk_is_saved(kind: SourceKind) -> None:
    assert why_left_out(a_disk(kind=kind), NOTHING) is None


@pytest.mark.parametrize(
    ("disk", "reason"),
    [
        (a_disk("cdrom", SourceKind.EMPTY, read_only=True), LeftOut.CDROM),
        (a_disk("floppy"), LeftOut.FLOPPY),
        (a_disk("lun", SourceKind.BLOCK), LeftOut.PASSED_THROUGH),
        (a_disk(kind=SourceKind.EMPTY), LeftOut.EMPTY),
        (a_disk(shareable=True), LeftOut.SHAREABLE),
        (a_disk(read_only=True), LeftOut.READ_ONLY),
    ],
)
def test_a_disk_that_cannot_or_need_not_be_saved_is_left_out(disk: Disk, reason: LeftOut) -> None:
    assert why_left_out(disk, NOTHING) is reason


def test_a_disk_that_the_user_excluded_is_left_out_by_its_target() -> None:
    assert why_left_out(a_disk(), frozenset({"vda"})) is LeftOut.EXCLUDED
    assert why_left_out(a_disk(), frozenset({"vdb"})) is None


def test_only_qcow2_can_have_a_bitmap() -> None:
    assert a_disk().can_have_bitmap
    assert not a_disk(image_format="raw").can_have_bitmap


@pytest.mark.parametrize("state", VmState)
def test_disks_are_read_through_qemu_exactly_while_it_is_there(state: VmState) -> None:
    vm = Vm("web", "u", state, (a_disk(),))
    assert vm.has_qemu == (state in {VmState.RUNNING, VmState.PAUSED})
    assert vm.disk("vda").path == "/x"
    with pytest.raises(KeyError):
        vm.disk("vdb")
