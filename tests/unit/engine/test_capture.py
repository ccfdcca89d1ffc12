"""Disks of a real qemu-nbd captured, and judged by qemu-img."""

import dataclasses
import hashlib
import json
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvm_backup.domain.errors import CancelledError, NoSpaceError, SourceReadError, TargetExistsError
from kvm_backup.domain.extent import Extent, ExtentKind
from kvm_backup.engine.capture import CapturedImage, capture_disk, planned_bytes
from kvm_backup.engine.chain import RunReader, in_runs, stored_clusters
from kvm_backup.engine.compress import ClusterDecompressor
from kvm_backup.engine.qcow2.format import CLUSTER_SIZE, Identity
from kvm_backup.engine.qcow2.reader import ImageFile
from kvm_backup.engine.source import NbdSource

Tool = Callable[..., str]
FULL = Identity("20261122T020000Z", "vda", None)


@pytest.fixture
def capture(serve: Any, make_control: Any) -> Callable[..., CapturedImage]:
    """capture(image, path, bitmap=…, backing=…): serve an image and capture it."""

    def run(image: Path, path: Path, *, bitmap: str | None = None, backing: str | None = None) -> CapturedImage:
        image_format = "raw" if image.suffix == ".raw" else "qcow2"
        control = make_control()
        with (
            serve(image, image_format, bitmap) as server,
            NbdSource.connect(server.socket, "vda", dirty_bitmap=bitmap) as source,
        ):
            planned = planned_bytes(source)
            captured = capture_disk(source, path, identity=FULL, backing_file=backing, control=control)
        assert control.done == planned == captured.bytes_read
        return captured

    return run


def rotated_sha256(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha256(content[CLUSTER_SIZE:] + content[:CLUSTER_SIZE]).hexdigest()


def test_full_capture_is_identical_to_the_disk_and_smaller(
    mixed_disk: Path, tmp_path: Path, capture: Any, tool: Tool
) -> None:
    path = tmp_path / "full.qcow2"
    captured = capture(mixed_disk, path)
    tool("qemu-img", "check", path)
    tool("qemu-img", "compare", "-f", "raw", "-F", "qcow2", mixed_disk, path)
    # QEMU rounds up to sectors; ours are whole ones already.
    assert captured.virtual_size == mixed_disk.stat().st_size
    assert json.loads(tool("qemu-img", "info", "--output=json", path))["virtual-size"] == captured.virtual_size
    assert captured.bytes_stored == path.stat().st_size < 6 << 20
    assert captured.sha256 == rotated_sha256(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with ImageFile.open(path) as image:
        assert image.header.identity == FULL
        assert image.header.backing_file is None


def test_incrementals_hold_what_changed_and_zeros_that_hide_the_parents_data(
    mixed_disk: Path, tmp_path: Path, capture: Any, tool: Tool
) -> None:
    disk = tmp_path / "disk.qcow2"
    tool("qemu-img", "convert", "-O", "qcow2", mixed_disk, disk)
    tool("qemu-img", "bitmap", "--add", disk, "b0")
    capture(disk, tmp_path / "0.qcow2")
    writes = [
        ["write -P 65 100k 10k", "discard 6M 1M", "write -z 9M 64k"],
        ["write -P 66 7M 300k", "discard 0 128k", "write -P 0 2M 64k"],
    ]
    for number, commands in enumerate(writes, 1):
        tool("qemu-io", *[word for command in commands for word in ("-c", command)], disk)
        captured = capture(disk, tmp_path / f"{number}.qcow2", bitmap=f"b{number - 1}", backing=f"{number - 1}.qcow2")
        assert captured.bytes_read < 1 << 20
        tool("qemu-img", "check", tmp_path / f"{number}.qcow2")
        tool("qemu-img", "compare", disk, tmp_path / f"{number}.qcow2")
        tool("qemu-img", "bitmap", "--remove", disk, f"b{number - 1}")
        tool("qemu-img", "bitmap", "--add", disk, f"b{number}")


def test_extents_of_a_bitmap_name_exactly_the_written_clusters(tmp_path: Path, serve: Any, tool: Tool) -> None:
    disk = tmp_path / "disk.qcow2"
    tool("qemu-img", "create", "-f", "qcow2", disk, "3G")
    tool("qemu-img", "bitmap", "--add", disk, "b")
    tool("qemu-io", "-c", "write -P 1 1G 64k", "-c", "write -z 2G 128k", disk)
    with serve(disk, "qcow2", "b") as server, NbdSource.connect(server.socket, "vda", dirty_bitmap="b") as source:
        extents = list(source.extents())
    assert extents[-1].end == 3 << 30
    assert [extent for extent in extents if extent.kind is not ExtentKind.UNCHANGED] == [
        Extent(1 << 30, 64 << 10, ExtentKind.DATA),
        Extent(2 << 30, 128 << 10, ExtentKind.ZERO),
    ]


def test_a_disk_of_many_tib_is_captured_in_a_small_file(tmp_path: Path, capture: Any, tool: Tool) -> None:
    disk = tmp_path / "huge.qcow2"
    tool("qemu-img", "create", "-f", "qcow2", disk, "40T")
    tool("qemu-io", "-c", "write -P 7 39T 1M", "-c", "write -P 8 0 64k", disk)
    captured = capture(disk, tmp_path / "out.qcow2")
    tool("qemu-img", "check", tmp_path / "out.qcow2")
    assert captured.virtual_size == 40 << 40
    assert captured.bytes_stored < 2 << 20
    tool("qemu-io", "-r", "-c", "read -P 7 39T 1M", "-c", "read -P 8 0 64k", tmp_path / "out.qcow2")


def test_a_bitmap_that_the_server_does_not_offer_is_an_error(mixed_disk: Path, serve: Any) -> None:
    with serve(mixed_disk, "raw", None) as server, pytest.raises(SourceReadError, match="qemu:dirty-bitmap:gone"):
        NbdSource.connect(server.socket, "vda", dirty_bitmap="gone")


def test_an_export_that_does_not_exist_is_an_error(mixed_disk: Path, serve: Any) -> None:
    with serve(mixed_disk, "raw", None) as server, pytest.raises(SourceReadError):
        NbdSource.connect(server.socket, "vdb", dirty_bitmap=None)


def test_nobody_listening_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceReadError):
        NbdSource.connect(tmp_path / "nbd", "vda", dirty_bitmap=None)


def test_a_server_that_does_not_speak_can_be_given_up(tmp_path: Path, make_control: Any) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "nbd"))
        silent.listen()
        with pytest.raises(CancelledError):
            NbdSource.connect(
                tmp_path / "nbd", "vda", dirty_bitmap=None, control=make_control(0, CancelledError("stop", hint=""))
            )


@pytest.fixture
def large_disk(tmp_path: Path) -> Path:
    path = tmp_path / "large.raw"
    block = b"".join(b"%d " % number for number in range(180_000))[: 1 << 20]
    with path.open("wb") as file:
        for number in range(300):
            file.write(number.to_bytes(8, "big") + block[8:])
    return path


@pytest.mark.parametrize("signal", ["kill", "stop and cancel"])
def test_a_server_that_dies_or_hangs_while_copying_leaves_no_file(
    large_disk: Path, tmp_path: Path, serve: Any, make_control: Any, signal: str
) -> None:
    path = tmp_path / "out.qcow2"
    with (
        serve(large_disk, "raw", None) as server,
        NbdSource.connect(server.socket, "vda", dirty_bitmap=None) as source,
    ):

        class Faulty(make_control):  # type: ignore[misc]
            hung_checks = 0

            def advance(self, done: int) -> None:
                super().advance(done)
                if self.done > 20 << 20:
                    server.process.send_signal(9 if signal == "kill" else 19)

            def check(self) -> None:
                if self.done > 20 << 20 and signal != "kill":
                    self.hung_checks += 1
                    if self.hung_checks == 5:
                        server.process.send_signal(18)
                        raise CancelledError("stop", hint="")

        with pytest.raises(SourceReadError if signal == "kill" else CancelledError):
            capture_disk(source, path, identity=FULL, backing_file=None, control=Faulty())
    assert not path.exists()


def test_a_control_that_stops_the_copy_leaves_no_file_and_no_thread(
    large_disk: Path, tmp_path: Path, serve: Any, make_control: Any
) -> None:
    path = tmp_path / "out.qcow2"
    before = threading.active_count()
    control = make_control(30 << 20, CancelledError("stop", hint=""))
    with (
        serve(large_disk, "raw", None) as server,
        NbdSource.connect(server.socket, "vda", dirty_bitmap=None) as source,
        pytest.raises(CancelledError),
    ):
        capture_disk(source, path, identity=FULL, backing_file=None, control=control)
    assert control.done < 300 << 20
    assert not path.exists()
    assert threading.active_count() == before


def test_a_full_file_system_is_no_space_and_leaves_no_file(
    large_disk: Path, small_file_system: Path, serve: Any, make_control: Any
) -> None:
    path = small_file_system / "out.qcow2"
    with (
        serve(large_disk, "raw", None) as server,
        NbdSource.connect(server.socket, "vda", dirty_bitmap=None) as source,
        pytest.raises(NoSpaceError),
    ):
        capture_disk(source, path, identity=FULL, backing_file=None, control=make_control())
    assert not path.exists()


def test_an_existing_file_is_left_alone(mixed_disk: Path, tmp_path: Path, capture: Any) -> None:
    path = tmp_path / "out.qcow2"
    path.write_bytes(b"precious")
    with pytest.raises(TargetExistsError):
        capture(mixed_disk, path)
    assert path.read_bytes() == b"precious"


def test_equal_disks_give_equal_files(mixed_disk: Path, tmp_path: Path, capture: Any) -> None:
    assert capture(mixed_disk, tmp_path / "1.qcow2").sha256 == capture(mixed_disk, tmp_path / "2.qcow2").sha256


def test_a_dirty_bitmap_without_a_parent_is_refused(tmp_path: Path, capture: Any, tool: Tool) -> None:
    disk = tmp_path / "disk.qcow2"
    tool("qemu-img", "create", "-f", "qcow2", disk, "1G")
    tool("qemu-img", "bitmap", "--add", disk, "b")
    with pytest.raises(ValueError, match="backing file"):
        capture(disk, tmp_path / "out.qcow2", bitmap="b")
    assert not (tmp_path / "out.qcow2").exists()


def test_a_file_system_without_direct_io_gets_the_same_file(
    mixed_disk: Path, tmp_path: Path, mount_without_direct_io: Path, capture: Any
) -> None:
    buffered = capture(mixed_disk, mount_without_direct_io / "out.qcow2")
    assert buffered == capture(mixed_disk, tmp_path / "out.qcow2")
    assert buffered.sha256 == rotated_sha256(mount_without_direct_io / "out.qcow2")


def test_the_last_cluster_is_padded_with_zeros_though_buffers_are_used_again(
    large_disk: Path, tmp_path: Path, capture: Any
) -> None:
    with large_disk.open("ab") as file:
        file.write(b"e" * 512)
    capture(large_disk, tmp_path / "out.qcow2")
    with ImageFile.open(tmp_path / "out.qcow2") as image:
        *_, last = in_runs(stored_clusters([image]))
        whole = [dataclasses.replace(stored, valid=CLUSTER_SIZE) for stored in last]
        content = bytes(RunReader(ClusterDecompressor()).read(whole))
    assert content[-CLUSTER_SIZE:] == b"e" * 512 + bytes(CLUSTER_SIZE - 512)
