"""Restores to files and devices, and what is left when they fail."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvm_backup.domain.errors import (
    CancelledError,
    DamagedImageError,
    NoSpaceError,
    StorageError,
    TargetExistsError,
    UnsupportedDiskError,
)
from kvm_backup.engine.chain import stored_clusters
from kvm_backup.engine.qcow2.reader import ImageFile
from kvm_backup.engine.restore import planned_restore_bytes, restore_chain
from kvm_backup.engine.verify import check_image

Tool = Callable[..., str]
MIB = 1 << 20


@pytest.fixture
def device(tmp_path: Path, tool: Tool) -> Iterator[Path]:
    """A loop device of 24 MiB, full of old data."""
    image = tmp_path / "device.img"
    image.write_bytes(b"old data" * (3 * MIB))
    path = Path(tool("losetup", "--show", "-f", image).strip())
    try:
        yield path
    finally:
        tool("losetup", "-d", path)


def test_a_block_device_holds_the_disk_and_zeros_where_the_disk_has_none(
    captured: Any, mixed_disk: Path, device: Path, make_control: Any
) -> None:
    restored = restore_chain([captured.path], device, target_format="raw", control=make_control())
    content = device.read_bytes()
    size = mixed_disk.stat().st_size
    assert restored.virtual_size == size
    assert content[:size] == mixed_disk.read_bytes()
    assert content[size:] == (b"old data" * (3 * MIB))[size:]


def test_a_block_device_is_zeroed_up_to_the_end_of_a_disk_that_ends_with_zeros(
    tmp_path: Path, capture_raw: Any, device: Path, make_control: Any
) -> None:
    disk = tmp_path / "short.raw"
    size = 3 * MIB + 512
    disk.write_bytes(b"data" * 100 + bytes(size - 400))
    image = capture_raw(disk, tmp_path / "short.qcow2").path
    restore_chain([image], device, target_format="raw", control=make_control())
    content = device.read_bytes()
    assert content[:size] == disk.read_bytes()
    assert content[size : size + 4096] == b"old data" * 512


def test_a_block_device_takes_no_qcow2(captured: Any, device: Path, make_control: Any) -> None:
    with pytest.raises(UnsupportedDiskError):
        restore_chain([captured.path], device, target_format="qcow2", control=make_control())
    assert device.read_bytes()[:8] == b"old data"


def test_a_block_device_that_is_too_small_is_left_alone(
    captured: Any, tmp_path: Path, tool: Tool, make_control: Any
) -> None:
    image = tmp_path / "small.img"
    image.write_bytes(b"old data" * MIB)
    device = tool("losetup", "--show", "-f", image).strip()
    try:
        with pytest.raises(StorageError, match="has 8388608 bytes"):
            restore_chain([captured.path], Path(device), target_format="raw", control=make_control())
    finally:
        tool("losetup", "-d", device)
    assert image.read_bytes() == b"old data" * MIB


def test_a_mounted_block_device_is_left_alone(
    captured: Any, device: Path, tmp_path: Path, tool: Tool, make_control: Any
) -> None:
    tool("mkfs.ext4", "-q", device)
    folder = tmp_path / "mounted"
    folder.mkdir()
    tool("mount", device, folder)
    try:
        with pytest.raises(StorageError, match="busy"):
            restore_chain([captured.path], device, target_format="raw", control=make_control())
    finally:
        tool("umount", folder)


def test_a_raw_file_has_holes_where_the_disk_has_zeros(captured: Any, tmp_path: Path, make_control: Any) -> None:
    target = tmp_path / "restored.raw"
    restore_chain([captured.path], target, target_format="raw", control=make_control())
    # The file system's own blocks for the map of a file with holes are counted too.
    stored = target.stat().st_blocks * 512 - 64 * 1024
    assert stored <= planned_restore_bytes([captured.path]) < target.stat().st_size / 2


@pytest.mark.parametrize("target_format", ["raw", "qcow2"])
def test_a_full_file_system_is_no_space_and_leaves_no_file(
    captured: Any, small_file_system: Path, target_format: Any, make_control: Any
) -> None:
    target = small_file_system / "restored"
    with pytest.raises(NoSpaceError):
        restore_chain([captured.path], target, target_format=target_format, control=make_control())
    assert not target.exists()


@pytest.mark.parametrize("target_format", ["raw", "qcow2"])
def test_a_damaged_cluster_is_named_and_leaves_no_file(
    captured: Any, tmp_path: Path, target_format: Any, make_control: Any
) -> None:
    with ImageFile.open(captured.path) as image:
        stored = list(stored_clusters([image]))[7]
    with captured.path.open("r+b") as file:
        file.seek(stored.offset + 9)
        file.write(b"??")
    target = tmp_path / "restored"
    with pytest.raises(DamagedImageError, match=f"disk offset {stored.disk_offset:#x}"):
        restore_chain([captured.path], target, target_format=target_format, control=make_control())
    assert not target.exists()


def test_a_restore_that_is_stopped_leaves_no_file(captured: Any, tmp_path: Path, make_control: Any) -> None:
    target = tmp_path / "restored"
    control = make_control(0, CancelledError("stop", hint=""))
    with pytest.raises(CancelledError):
        restore_chain([captured.path], target, target_format="raw", control=control)
    assert not target.exists()


@pytest.mark.parametrize("target_format", ["raw", "qcow2"])
def test_an_existing_file_is_left_alone(captured: Any, tmp_path: Path, target_format: Any, make_control: Any) -> None:
    target = tmp_path / "restored"
    target.write_bytes(b"precious")
    with pytest.raises(TargetExistsError):
        restore_chain([captured.path], target, target_format=target_format, control=make_control())
    assert target.read_bytes() == b"precious"


def test_a_dangling_link_in_the_targets_place_is_not_followed(
    captured: Any, tmp_path: Path, make_control: Any
) -> None:
    target = tmp_path / "restored"
    target.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TargetExistsError):
        restore_chain([captured.path], target, target_format="raw", control=make_control())
    assert not (tmp_path / "elsewhere").exists()


def test_a_missing_folder_is_a_storage_error(captured: Any, tmp_path: Path, make_control: Any) -> None:
    with pytest.raises(StorageError):
        restore_chain([captured.path], tmp_path / "no" / "x", target_format="raw", control=make_control())


def test_a_file_system_without_direct_io_works_too(
    captured: Any, mixed_disk: Path, mount_without_direct_io: Path, tool: Tool, make_control: Any, serve: Any
) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        os.open(mount_without_direct_io / "probe", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    copy = mount_without_direct_io / "copy.qcow2"
    copy.write_bytes(captured.path.read_bytes())
    assert check_image(
        copy, expected_sha256=captured.sha256, expected_identity=None, deep=True, control=make_control()
    ) == []  # fmt: skip
    for target_format in ("raw", "qcow2"):
        target = mount_without_direct_io / f"restored.{target_format}"
        restore_chain([copy], target, target_format=target_format, control=make_control())
        tool("qemu-img", "compare", "-f", "raw", "-F", target_format, mixed_disk, target)
