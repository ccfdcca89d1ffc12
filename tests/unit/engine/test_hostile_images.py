"""Headers and tables that lie: each is refused with its cause, and none makes the reader do anything else."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvm_backup.domain.errors import DamagedImageError, StorageError
from kvm_backup.engine.chain import in_runs, stored_clusters
from kvm_backup.engine.qcow2.format import CLUSTER_SIZE, FRAME_PREFIX
from kvm_backup.engine.qcow2.reader import ImageFile
from kvm_backup.engine.restore import restore_chain
from kvm_backup.engine.verify import check_image

Tool = Callable[..., str]


@pytest.fixture
def image(tmp_path: Path, capture_raw: Any) -> Path:
    """A disk of 1 GiB with three clusters of text."""
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"some text. " * 15000)
    os.truncate(disk, 1 << 30)
    path: Path = capture_raw(disk, tmp_path / "image.qcow2").path
    return path


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def number(path: Path, offset: int) -> int:
    content = path.read_bytes()
    return int.from_bytes(content[offset : offset + 8], "big")


U32, U64 = struct.Struct(">I").pack, struct.Struct(">Q").pack


@pytest.mark.parametrize(
    ("offset", "data", "cause"),
    [
        (0, b"QFI\x00", "not a qcow2"),
        (4, U32(2), "version"),
        (8, U64(CLUSTER_SIZE - 1) + U32(1023), "backing file's name"),
        (8, U64(1 << 60) + U32(5), "backing file's name"),
        (8, U64(200) + U32(1024), "backing file's name"),
        (20, U32(9), "cluster_bits"),
        (24, U64(0), "virtual size"),
        (24, U64(1 << 62), "virtual size"),
        (24, U64((1 << 30) + 1), "virtual size"),
        (24, U64(1 << 40), "L1 table has 2 entries"),
        (32, U32(1), "encryption"),
        (36, U32(0xFFFFFFFF), "L1 table has 4294967295 entries"),
        (40, U64(0), "L1 table's offset"),
        (40, U64(512), "L1 table's offset"),
        (40, U64(1 << 50), "end of the file"),
        (48, U64(1 << 63), "end of the file"),
        (56, U32(0), "refcount table is too small"),
        (56, U32(0xFFFFFFFF), "end of the file"),
        (60, U32(1), "snapshots"),
        (72, U64(1), "incompatible features"),
        (72, U64(1 << 2 | 1 << 3), "incompatible features"),
        (72, U64(0), "compression type"),
        (96, U32(5), "refcount_order"),
        (100, U32(104), "header length"),
        (104, b"\x02", "compression type"),
        (112, U32(0x12345678) + U32(0xFFFFFFF0), "longer than the header"),
        (112, U32(0x4B564D42) + U32(8) + b"{\"a\": 1}", "identity"),
        (112, U32(0x4B564D42) + U32(8) + b"\xff" * 8, "identity"),
        (112, U32(0x4B564D42) + U32(30000) + b"[" * 30000, "identity"),
        (112, U32(0xE2792ACA) + U32(4) + b"\xff" * 4, "not UTF-8"),
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused_with_the_cause(image: Path, offset: int, data: bytes, cause: str) -> None:
    patch(image, offset, data)
    with pytest.raises(DamagedImageError, match=cause):
        ImageFile.open(image)


def test_an_l1_table_over_the_refcount_table_is_refused(image: Path) -> None:
    patch(image, 40, U64(number(image, 48)))
    with pytest.raises(DamagedImageError, match="overlap"):
        ImageFile.open(image)


@pytest.mark.parametrize("entry", [1 << 63 | 3 << 62, 1 << 62 | (1 << 54) - 1, 1 << 62, 1 << 50, 2, 1 << 57])
def test_an_l2_entry_that_lies_is_refused(image: Path, tmp_path: Path, make_control: Any, entry: int) -> None:
    l2_offset = number(image, number(image, 40)) & (1 << 56) - 1
    patch(image, l2_offset, U64(entry))
    (damage, *_) = check_image(
        image, expected_sha256=None, expected_identity=None, deep=False, control=make_control()
    )
    assert damage.disk_offset == 0
    with pytest.raises(DamagedImageError):
        restore_chain([image], tmp_path / "restored", target_format="raw", control=make_control())
    assert not (tmp_path / "restored").exists()


def test_a_frame_that_claims_another_size_is_refused(image: Path, tmp_path: Path, make_control: Any) -> None:
    with ImageFile.open(image) as opened:
        first = next(stored_clusters([opened]))
    assert image.read_bytes()[first.offset :].startswith(FRAME_PREFIX)
    # Single segment, content size of eight bytes: 2^40.
    patch(image, first.offset + 4, b"\xe0" + (1 << 40).to_bytes(8, "little"))
    with pytest.raises(DamagedImageError, match="does not begin like"):
        restore_chain([image], tmp_path / "restored", target_format="raw", control=make_control())


def test_a_compressed_image_of_qemu_without_checksums_is_refused(
    image: Path, tmp_path: Path, tool: Tool, make_control: Any
) -> None:
    foreign = tmp_path / "foreign.qcow2"
    tool("qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", image, foreign)
    with pytest.raises(DamagedImageError):
        restore_chain([foreign], tmp_path / "restored", target_format="raw", control=make_control())


def test_a_fifo_in_an_images_place_does_not_hang(image: Path, make_control: Any) -> None:
    image.unlink()
    os.mkfifo(image)
    with pytest.raises((StorageError, DamagedImageError)):
        ImageFile.open(image)


@given(
    places=st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 200), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6
    )
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_changes_to_header_and_tables_give_damage_or_clusters_and_nothing_else(
    image: Path, make_control: Any, places: list[tuple[int, int, bytes]]
) -> None:
    whole = image.read_bytes()
    end = len(whole) // CLUSTER_SIZE
    try:
        for table, offset, data in places:
            # The header, and the last four clusters: an L2 table, the L1 table, a refcount block, the refcount table.
            patch(image, (0 if table == 0 else (end - table) * CLUSTER_SIZE) + offset, data)
        check_image(image, expected_sha256=None, expected_identity=None, deep=True, control=make_control())
        try:
            with ImageFile.open(image) as opened:
                for run in in_runs(stored_clusters([opened])):
                    assert len(run) <= 16
        except DamagedImageError:
            pass
    finally:
        image.write_bytes(whole)
