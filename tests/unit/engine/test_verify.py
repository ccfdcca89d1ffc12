"""Damage of every kind is found, and named as closely as it can be."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvm_backup.domain.errors import CancelledError, StorageError
from kvm_backup.engine.chain import StoredCluster, stored_clusters
from kvm_backup.engine.compress import ClusterCompressor, ClusterDecompressor
from kvm_backup.engine.qcow2.format import CLUSTER_SIZE, Identity
from kvm_backup.engine.qcow2.reader import ImageFile
from kvm_backup.engine.verify import Damage, DamageKind, check_image

Check = Callable[..., list[Damage]]


@pytest.fixture
def small_image(tmp_path: Path, capture_raw: Any) -> Any:
    """One cluster of text in a disk of two."""
    disk = tmp_path / "small.raw"
    disk.write_bytes(b"some text, some more text. ".ljust(2 * CLUSTER_SIZE, b"\0"))
    return capture_raw(disk, tmp_path / "small.qcow2")


@pytest.fixture
def check(captured: Any, make_control: Any) -> Check:
    """check(digest=…, deep=…, identity=…) of the captured image."""

    def run(*, digest: bool = True, deep: bool = False, identity: Identity | None = None) -> list[Damage]:
        return check_image(
            captured.path,
            expected_sha256=captured.sha256 if digest else None,
            expected_identity=identity or captured.identity,
            deep=deep,
            control=make_control(),
        )

    return run


def flip(path: Path, offset: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def spoil(path: Path, stored: StoredCluster) -> None:
    for offset in range(24, 28):
        flip(path, stored.offset + offset, 0)
        flip(path, stored.offset + offset, 7)


def clusters_of(path: Path) -> list[StoredCluster]:
    with ImageFile.open(path) as image:
        return list(stored_clusters([image]))


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_image_has_no_damage(check: Check, deep: bool) -> None:
    assert check(deep=deep) == []


def test_any_flipped_bit_of_the_header_and_of_a_frame_is_found(small_image: Any, make_control: Any) -> None:
    (stored,) = clusters_of(small_image.path)
    header, frame = range(200), range(stored.offset, stored.offset + 16)

    def damages() -> list[Damage]:
        return check_image(
            small_image.path,
            expected_sha256=small_image.sha256,
            expected_identity=None,
            deep=False,
            control=make_control(),
        )

    for offset in (*header, *frame):
        for bit in range(8):
            flip(small_image.path, offset, bit)
            assert damages(), (offset, bit)
            flip(small_image.path, offset, bit)
    assert damages() == []


def test_a_flipped_bit_of_a_frame_is_an_error_or_changes_nothing() -> None:
    cluster = b"".join(b"line %d of some text\n" % number for number in range(4000))[:CLUSTER_SIZE]
    (frame,) = ClusterCompressor(1).frames(memoryview(cluster))
    assert frame is not None
    decompressor = ClusterDecompressor()
    silent = 0
    for bit in range(len(frame) * 8):
        spoilt = bytearray(frame)
        spoilt[bit // 8] ^= 1 << bit % 8
        try:
            # zstd leaves a few bits unused; only the file's digest sees those.
            assert decompressor.cluster(memoryview(spoilt)) == cluster
            silent += 1
        except ValueError:
            pass
    assert silent < 50


def test_a_flipped_bit_anywhere_is_found_by_the_digest(captured: Any, check: Check) -> None:
    places = random.Random(3)
    size = captured.path.stat().st_size
    for _ in range(60):
        offset, bit = places.randrange(size), places.randrange(8)
        flip(captured.path, offset, bit)
        assert check()[0].kind is DamageKind.DIGEST
        flip(captured.path, offset, bit)


def test_changed_bits_of_a_clusters_data_name_its_disk_offset(captured: Any, check: Check) -> None:
    places = random.Random(5)
    for stored in places.sample(clusters_of(captured.path), 30):
        spoil(captured.path, stored)
        shallow, deep = check(), check(digest=False, deep=True)
        assert [damage.kind for damage in shallow] == [DamageKind.DIGEST, DamageKind.CLUSTER]
        assert [(damage.file_offset, damage.disk_offset) for damage in deep] == [(stored.offset, stored.disk_offset)]
        assert shallow[1] == deep[0]
        spoil(captured.path, stored)


def test_every_damaged_cluster_of_a_run_is_named(captured: Any, check: Check) -> None:
    damaged = clusters_of(captured.path)[2:5]
    for stored in damaged:
        spoil(captured.path, stored)
    found = check(digest=False, deep=True)
    assert sorted(damage.disk_offset or 0 for damage in found) == [stored.disk_offset for stored in damaged]


def test_an_impossible_table_entry_names_its_disk_offset(captured: Any, check: Check) -> None:
    with ImageFile.open(captured.path) as image:
        l1_offset = image.header.l1_offset
    with captured.path.open("r+b") as file:
        file.seek(l1_offset)
        l2_offset = int.from_bytes(file.read(8), "big") & 0x00FF_FFFF_FFFF_FE00
    flip(captured.path, l2_offset + 3 * 8 + 2, 7)
    (damage,) = check(digest=False)
    assert (damage.kind, damage.disk_offset) == (DamageKind.STRUCTURE, 3 * CLUSTER_SIZE)


def test_an_impossible_l1_entry_is_found_without_a_digest(captured: Any, check: Check) -> None:
    with ImageFile.open(captured.path) as image:
        l1_offset = image.header.l1_offset
    flip(captured.path, l1_offset + 2, 3)
    (damage,) = check(digest=False)
    assert (damage.kind, damage.disk_offset) == (DamageKind.STRUCTURE, 0)


@pytest.mark.parametrize("digest", [True, False])
@pytest.mark.parametrize("missing", [1, 512, CLUSTER_SIZE, 5 * CLUSTER_SIZE])
def test_missing_bytes_at_the_end_are_found(captured: Any, check: Check, missing: int, digest: bool) -> None:
    with captured.path.open("r+b") as file:
        file.truncate(captured.path.stat().st_size - missing)
    assert DamageKind.STRUCTURE in [damage.kind for damage in check(digest=digest)]


@pytest.mark.parametrize("size", [0, 1, 111, 112, CLUSTER_SIZE])
def test_a_file_cut_to_its_beginning_is_damaged(captured: Any, check: Check, size: int) -> None:
    with captured.path.open("r+b") as file:
        file.truncate(size)
    assert [damage.kind for damage in check()] == [DamageKind.DIGEST, DamageKind.STRUCTURE]


@pytest.mark.parametrize("digest", [True, False])
def test_trailing_bytes_are_found(captured: Any, check: Check, digest: bool) -> None:
    end = captured.path.stat().st_size
    with captured.path.open("ab") as file:
        file.write(b"x")
    assert (DamageKind.SIZE, end) in [(damage.kind, damage.file_offset) for damage in check(digest=digest)]


def test_a_file_of_another_point_is_foreign(check: Check) -> None:
    (damage,) = check(digest=False, identity=Identity("20261122T020000Z", "vdb", None))
    assert damage.kind is DamageKind.FOREIGN


def test_a_missing_file_is_a_damage(captured: Any, check: Check) -> None:
    captured.path.unlink()
    assert [damage.kind for damage in check()] == [DamageKind.MISSING]


def test_a_folder_in_the_files_place_cannot_be_read(captured: Any, check: Check) -> None:
    captured.path.unlink()
    captured.path.mkdir()
    with pytest.raises(StorageError):
        check()


def test_a_verification_can_be_stopped(captured: Any, make_control: Any) -> None:
    with pytest.raises(CancelledError):
        check_image(
            captured.path,
            expected_sha256=captured.sha256,
            expected_identity=None,
            deep=False,
            control=make_control(0, CancelledError("stop", hint="")),
        )
