"""Random chains of images: what the writer writes is what QEMU reads, and what a restore gives back."""

import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvm_backup.engine.append_file import AppendFile
from kvm_backup.engine.compress import ClusterCompressor
from kvm_backup.engine.copy import NoControl
from kvm_backup.engine.qcow2.format import CLUSTER_SIZE, L2_ENTRIES, SECTOR_SIZE, Identity
from kvm_backup.engine.qcow2.reader import ImageFile
from kvm_backup.engine.qcow2.writer import Qcow2Writer
from kvm_backup.engine.restore import planned_restore_bytes, restore_chain
from kvm_backup.engine.target import Qcow2Target
from kvm_backup.engine.verify import check_image

Tool = Callable[..., str]
COMPRESSOR = ClusterCompressor(1)
# Around the start of the disk and around the edge between two L2 tables.
INDEXES = [*range(6), *range(L2_ENTRIES - 3, L2_ENTRIES + 4)]


@dataclass
class Link:
    sectors: int
    clusters: dict[int, int | None]
    """Seed of a cluster's content, None for explicit zeros; what is missing comes from the parent."""

    @property
    def size(self) -> int:
        return self.sectors * SECTOR_SIZE


def content(seed: int) -> bytes:
    """64 KiB: every fourth does not compress, the others do, in different degrees."""
    noise = random.Random(seed)
    if seed % 4 == 0:
        return noise.randbytes(CLUSTER_SIZE)
    return (noise.randbytes(40 * (seed % 4)) * CLUSTER_SIZE)[:CLUSTER_SIZE]


SECTORS_PER_CLUSTER = CLUSTER_SIZE // SECTOR_SIZE
sizes = st.builds(
    lambda index, sectors: index * SECTORS_PER_CLUSTER + sectors,
    st.sampled_from(INDEXES),
    st.integers(1, SECTORS_PER_CLUSTER),
)
links = st.builds(
    Link, sizes, st.dictionaries(st.sampled_from(INDEXES), st.none() | st.integers(1, 40), max_size=len(INDEXES))
)


def write_chain(folder: Path, chain: list[Link], control: Any) -> list[Path]:
    paths: list[Path] = []
    for number, link in enumerate(chain):
        path = folder / f"{number}.qcow2"
        sink = AppendFile(path, control)
        writer = Qcow2Writer(
            sink,
            link.size,
            compressed=True,
            backing_file=paths[-1].name if paths else None,
            backing_format="qcow2" if paths else None,
            identity=Identity(f"point {number}", "vda", None),
        )
        for cluster, seed in sorted(link.clusters.items()):
            if cluster * CLUSTER_SIZE >= link.size:
                continue
            if seed is None:
                writer.add_zeros(cluster, 1)
            else:
                # What lies behind the disk's end in its last cluster is rubbish here, and must not be read.
                frame = COMPRESSOR.frames(memoryview(content(seed)))[0]
                assert frame is not None
                writer.add_frame(cluster, frame)
        sink.finish(writer.finish())
        paths.append(path)
    return paths


def write_expected(path: Path, chain: list[Link]) -> None:
    """The disk, by writing one link over the other; independent of the code under test."""
    with path.open("w+b") as file:
        for link in chain:
            file.truncate(link.size)
            for cluster, seed in link.clusters.items():
                offset = cluster * CLUSTER_SIZE
                if offset < link.size:
                    file.seek(offset)
                    data = bytes(CLUSTER_SIZE) if seed is None else content(seed)
                    file.write(data[: link.size - offset])


@settings(max_examples=40, deadline=None)
@given(st.lists(links, min_size=1, max_size=4))
def test_chains_read_the_same_through_qemu_and_restored(tool: Tool, make_control: Any, chain: list[Link]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_chain(folder, chain, make_control())
        expected = folder / "expected.raw"
        write_expected(expected, chain)
        tool("qemu-img", "compare", "-f", "raw", "-F", "qcow2", expected, paths[-1])
        for path in paths:
            tool("qemu-img", "check", path)
            assert (
                check_image(path, expected_sha256=None, expected_identity=None, deep=True, control=make_control())
                == []
            )
        formats: tuple[Literal["raw", "qcow2"], ...] = ("raw", "qcow2")
        for target_format in formats:
            target = folder / f"restored.{target_format}"
            control = make_control()
            restored = restore_chain(paths, target, target_format=target_format, control=control)
            assert restored.virtual_size == chain[-1].size
            assert restored.bytes_written == control.done == planned_restore_bytes(paths)
            tool("qemu-img", "compare", "-f", "raw", "-F", target_format, expected, target)
        assert (folder / "restored.raw").stat().st_size == chain[-1].size
        tool("qemu-img", "check", folder / "restored.qcow2")


def test_a_shorter_link_hides_what_the_base_has_behind_its_end(tool: Tool, make_control: Any, tmp_path: Path) -> None:
    whole = 6 * SECTORS_PER_CLUSTER
    chain = [
        Link(whole, dict.fromkeys(range(6), 1)),
        Link(SECTORS_PER_CLUSTER * 2 + 3, {0: 2}),
        Link(whole, {5: 3}),
    ]
    paths = write_chain(tmp_path, chain, make_control())
    target = tmp_path / "restored.raw"
    restore_chain(paths, target, target_format="raw", control=make_control())
    tool("qemu-img", "compare", "-f", "raw", "-F", "qcow2", target, paths[-1])
    visible = content(1)[: 3 * SECTOR_SIZE]
    middle = content(2) + content(1) + visible
    assert target.read_bytes() == middle.ljust(5 * CLUSTER_SIZE, b"\0") + content(3)


@given(st.text(max_size=40), st.text(max_size=40), st.none() | st.text(max_size=40), st.text(min_size=1, max_size=80))
@settings(deadline=None, max_examples=30)
def test_identity_and_backing_name_are_read_back(
    make_control: Any, point: str, disk: str, parent: str | None, backing: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "image"
        identity = Identity(point, disk, parent)
        sink = AppendFile(path, make_control())
        writer = Qcow2Writer(
            sink, 1 << 30, compressed=True, backing_file=backing, backing_format="qcow2", identity=identity
        )
        sink.finish(writer.finish())
        with ImageFile.open(path) as image:
            assert image.header.identity == identity
            assert (image.header.backing_file, image.header.backing_format) == (backing, "qcow2")


def test_names_that_do_not_fit_are_refused_before_anything_is_written(make_control: Any, tmp_path: Path) -> None:
    sink = AppendFile(tmp_path / "image", make_control())
    with pytest.raises(ValueError, match="1024 bytes"):
        Qcow2Writer(sink, 1 << 30, compressed=True, backing_file="x" * 1024, backing_format="qcow2")
    sink.abort()


@pytest.mark.parametrize("gib", [1, 2, 4, 9])
def test_refcounts_are_right_across_refcount_blocks_of_2_gib(tool: Tool, tmp_path: Path, gib: int) -> None:
    path = tmp_path / "sparse.qcow2"
    # Clusters that are placed but not written are holes of the file: a large image that costs nothing.
    target = Qcow2Target(path, 20 << 30)
    for cluster in range(0, gib * 16384, 16):
        target.place(cluster + 4096, 16)
    target.finish()
    tool("qemu-img", "check", path)
    assert check_image(path, expected_sha256=None, expected_identity=None, deep=False, control=NoControl()) == []
    assert path.stat().st_size > gib << 30


def test_refcounts_are_right_across_refcount_blocks_with_packed_frames(tool: Tool, tmp_path: Path) -> None:
    path = tmp_path / "sparse.qcow2"
    size = 65548
    with path.open("w+b") as file:

        class Holes:
            """Keeps tables, and lets the frames be holes."""

            def write(self, data: bytes, offset: int) -> None:
                if len(data) != size:
                    file.seek(offset)
                    file.write(data)

        writer = Qcow2Writer(Holes(), 20 << 30, compressed=True)
        for cluster in range(5 * 16384):
            writer.add_frame(cluster, bytes(size))
        head = writer.finish()
        file.seek(0)
        file.write(head)
    tool("qemu-img", "check", path)
