"""A chain made one image reads the same, holds the very same frames, and stands alone."""

import contextlib
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvm_backup.domain.errors import CancelledError, DamagedImageError, NoSpaceError, TargetExistsError
from kvm_backup.engine.chain import stored_clusters
from kvm_backup.engine.compress import ClusterCompressor, frame_length
from kvm_backup.engine.consolidate import consolidate_chain, planned_image_bytes
from kvm_backup.engine.copy import NoControl
from kvm_backup.engine.qcow2.format import CLUSTER_SIZE, Identity
from kvm_backup.engine.qcow2.reader import ImageFile
from kvm_backup.engine.restore import restore_chain
from kvm_backup.engine.verify import check_image
from tests.unit.engine.test_qcow2_chains import (
    SECTORS_PER_CLUSTER,
    Link,
    content,
    links,
    write_chain,
    write_expected,
)

Tool = Callable[..., str]
IDENTITY = Identity("web--1a2b3c4d/20261122T020000Z@u", "vda", None)


def frames(chain: list[Path]) -> dict[int, bytes]:
    """The whole clusters of a chain, as they lie in its files."""
    with contextlib.ExitStack() as stack:
        images = [stack.enter_context(ImageFile.open(path)) for path in chain]
        found = {}
        for stored in stored_clusters(images):
            data = stored.image.path.read_bytes()[stored.offset :][: stored.length]
            if stored.valid == CLUSTER_SIZE:
                found[stored.cluster] = data[: frame_length(memoryview(data))]
        return found


def expect_sound(path: Path, sha256: str) -> None:
    assert check_image(path, expected_sha256=sha256, expected_identity=IDENTITY, deep=True, control=NoControl()) == []


@settings(max_examples=40, deadline=None)
@given(st.lists(links, min_size=1, max_size=4), links)
def test_chains_read_the_same_when_they_are_consolidated(tool: Tool, chain: list[Link], child: Link) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_chain(folder, [*chain, child], NoControl())
        expected = folder / "expected.raw"
        write_expected(expected, chain)
        made = consolidate_chain(paths[:-1], folder / "new", identity=IDENTITY, control=NoControl())
        assert made.virtual_size == chain[-1].size
        assert made.bytes_stored == (folder / "new").stat().st_size
        expect_sound(folder / "new", made.sha256)
        kept = frames(paths[:-1])
        moved = frames([folder / "new"])
        assert kept.items() <= moved.items()
        # The new file in the old one's place: the child stays as it is and reads the same.
        tool("qemu-img", "convert", "-O", "raw", paths[-1], folder / "before.raw")
        (folder / "new").replace(paths[-2])
        tool("qemu-img", "check", paths[-2])
        tool("qemu-img", "compare", "-f", "raw", "-F", "qcow2", expected, paths[-2])
        for base in paths[:-2]:
            base.unlink()
        tool("qemu-img", "compare", "-f", "raw", "-F", "qcow2", folder / "before.raw", paths[-1])


def test_what_a_shorter_link_hides_reads_as_zeros(tool: Tool, tmp_path: Path) -> None:
    whole = 6 * SECTORS_PER_CLUSTER
    chain = [
        Link(whole, dict.fromkeys(range(6), 1)),
        Link(SECTORS_PER_CLUSTER * 2 + 3, {0: 2}),
        Link(whole, {5: 3}),
    ]
    paths = write_chain(tmp_path, chain, NoControl())
    made = consolidate_chain(paths, tmp_path / "new", identity=IDENTITY, control=NoControl())
    expect_sound(tmp_path / "new", made.sha256)
    tool("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", paths[-1], tmp_path / "new")
    with ImageFile.open(tmp_path / "new") as image:
        assert [stored.cluster for stored in stored_clusters([image])] == [0, 1, 2, 5]
        assert image.header.backing_file is None


def test_zeros_need_no_room_and_the_plan_knows_about_how_much_the_rest_needs(tmp_path: Path) -> None:
    chain = [
        Link(8 * SECTORS_PER_CLUSTER, dict.fromkeys(range(8), 4)),
        Link(8 * SECTORS_PER_CLUSTER, dict.fromkeys(range(1, 8), None)),
    ]
    paths = write_chain(tmp_path, chain, NoControl())
    made = consolidate_chain(paths, tmp_path / "new", identity=IDENTITY, control=NoControl())
    assert made.bytes_stored < paths[0].stat().st_size - 6 * CLUSTER_SIZE
    assert made.bytes_stored <= planned_image_bytes(paths) <= made.bytes_stored + CLUSTER_SIZE


def test_a_link_that_was_consolidated_meanwhile_hides_the_links_below(tmp_path: Path) -> None:
    """A restore that looked at the chain before the files were exchanged, and opens them after."""
    chain = [Link(4 * SECTORS_PER_CLUSTER, {0: 1, 1: 1}), Link(4 * SECTORS_PER_CLUSTER, {1: None, 2: 2})]
    paths = write_chain(tmp_path, chain, NoControl())
    consolidate_chain(paths, tmp_path / "new", identity=IDENTITY, control=NoControl())
    (tmp_path / "new").replace(paths[1])
    restore_chain(paths, tmp_path / "restored", target_format="raw", control=NoControl())
    expected = content(1) + bytes(CLUSTER_SIZE) + content(2) + bytes(CLUSTER_SIZE)
    assert (tmp_path / "restored").read_bytes() == expected


def test_clusters_without_compression_are_compressed(tool: Tool, tmp_path: Path) -> None:
    raw, plain = tmp_path / "raw", tmp_path / "plain.qcow2"
    raw.write_bytes(content(3) + bytes(CLUSTER_SIZE) + content(4) + b"the end".ljust(512))
    tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", "refcount_bits=16", raw, plain)
    made = consolidate_chain([plain], tmp_path / "new", identity=IDENTITY, control=NoControl())
    expect_sound(tmp_path / "new", made.sha256)
    tool("qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, tmp_path / "new")
    assert sorted(frames([tmp_path / "new"])) == [0, 2]


@pytest.mark.parametrize("cut", [1, 40, 3000])
def test_damage_is_named_and_leaves_nothing(tmp_path: Path, cut: int) -> None:
    paths = write_chain(tmp_path, [Link(2 * SECTORS_PER_CLUSTER, {0: 4})], NoControl())
    content_ = bytearray(paths[0].read_bytes())
    content_[CLUSTER_SIZE + cut % 9] ^= 0x40
    paths[0].write_bytes(content_)
    with pytest.raises(DamagedImageError, match="0x10000"):
        consolidate_chain(paths, tmp_path / "new", identity=IDENTITY, control=NoControl())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.qcow2"]


def test_a_copy_that_is_stopped_leaves_nothing(make_control: Any, tmp_path: Path) -> None:
    paths = write_chain(tmp_path, [Link(200 * SECTORS_PER_CLUSTER, dict.fromkeys(range(6), 4))], NoControl())
    control = make_control(0, CancelledError("stop", hint="Go on."))
    with pytest.raises(CancelledError):
        consolidate_chain(paths, tmp_path / "new", identity=IDENTITY, control=control)
    assert not (tmp_path / "new").exists()


def test_what_exists_is_not_overwritten(tmp_path: Path) -> None:
    paths = write_chain(tmp_path, [Link(SECTORS_PER_CLUSTER, {0: 1})], NoControl())
    before = paths[0].read_bytes()
    with pytest.raises(TargetExistsError):
        consolidate_chain(paths, paths[0], identity=IDENTITY, control=NoControl())
    assert paths[0].read_bytes() == before


def test_a_full_disk_ends_it_and_leaves_nothing(small_file_system: Path, tmp_path: Path) -> None:
    size = 160
    paths = write_chain(
        tmp_path, [Link(size * SECTORS_PER_CLUSTER, {number: 4 * number + 4 for number in range(size)})], NoControl()
    )
    with pytest.raises(NoSpaceError):
        consolidate_chain(paths, small_file_system / "new", identity=IDENTITY, control=NoControl())
    assert not (small_file_system / "new").exists()


@given(st.binary(max_size=300), st.integers(0, 400))
def test_rubbish_behind_the_beginning_of_a_frame_is_measured_or_refused(rubbish: bytes, cut: int) -> None:
    frame = ClusterCompressor(1).frames(memoryview(content(3)))[0]
    assert frame is not None
    assert frame_length(memoryview(frame + rubbish)) == len(frame)
    data = (frame[:7] + rubbish)[:cut]
    try:
        assert 0 < frame_length(memoryview(data)) <= len(data)
    except ValueError as error:
        assert "frame" in str(error)  # noqa: PT017 - either is right


def test_frames_of_every_kind_are_measured() -> None:
    noise = random.Random(5)
    for level in (1, 3, 19):
        compressor = ClusterCompressor(level)
        for data in (
            noise.randbytes(CLUSTER_SIZE),
            b"a" * CLUSTER_SIZE,
            (noise.randbytes(999) * 66)[:CLUSTER_SIZE],
            noise.randbytes(CLUSTER_SIZE // 2).ljust(CLUSTER_SIZE, b"z"),
            os.urandom(100).ljust(CLUSTER_SIZE, b"\1"),
        ):
            (frame,) = compressor.frames(memoryview(data))
            assert frame is not None
            assert frame_length(memoryview(frame + b"more")) == len(frame)
