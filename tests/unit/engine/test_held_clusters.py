"""The map of what a chain holds says what the chain itself says, and is refused when it is another disk's."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvm_backup.domain.errors import DamagedImageError
from kvm_backup.domain.extent import Extent, ExtentKind
from kvm_backup.engine.append_file import AppendFile
from kvm_backup.engine.chain import first_stored, stored_clusters
from kvm_backup.engine.compress import ClusterCompressor
from kvm_backup.engine.copy import NoControl
from kvm_backup.engine.held import HeldClusters, packed_size_max
from kvm_backup.engine.qcow2.format import CLUSTER_SIZE, L2_ENTRIES
from kvm_backup.engine.qcow2.reader import ImageFile
from kvm_backup.engine.qcow2.writer import Qcow2Writer

FRAME = ClusterCompressor(1).frames(memoryview(b"data" * (CLUSTER_SIZE // 4)))[0]
CLUSTERS = L2_ENTRIES + 20
"""More than one table of entries."""
PLACES = st.sampled_from([*range(20), *range(L2_ENTRIES - 10, CLUSTERS)])
LAYERS = st.lists(
    st.tuples(st.integers(L2_ENTRIES - 5, CLUSTERS), st.dictionaries(PLACES, st.booleans())), min_size=1, max_size=4
)
RELAXED = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, clusters: int, content: dict[int, bool], *, full: bool, odd: int = 0) -> Path:
    """An image; `content` tells where there is data (true) and where explicit zeros (false)."""
    path.unlink(missing_ok=True)
    sink = AppendFile(path, NoControl())
    writer = Qcow2Writer(
        sink,
        clusters * CLUSTER_SIZE - odd,
        compressed=True,
        backing_file=None if full else "../below/vda.qcow2",
        backing_format=None if full else "qcow2",
    )
    assert FRAME is not None
    for cluster, data in sorted(content.items()):
        if cluster >= clusters:
            continue
        if data:
            writer.add_frame(cluster, FRAME)
        elif not full:
            writer.add_zeros(cluster, 1)
    sink.finish(writer.finish())
    return path


def written(folder: Path, layers: Sequence[tuple[int, dict[int, bool]]]) -> list[Path]:
    return [
        write(folder / f"{number}.qcow2", clusters, content, full=number == 0, odd=512 * (number % 2))
        for number, (clusters, content) in enumerate(layers)
    ]


def folded(images: Sequence[ImageFile]) -> HeldClusters:
    held = HeldClusters()
    for image in images:
        held = held.under(image)
    return held


@RELAXED
@given(layers=LAYERS)
def test_a_map_holds_the_clusters_that_the_chain_stores(
    tmp_path: Path, layers: list[tuple[int, dict[int, bool]]]
) -> None:
    with ExitStack() as stack:
        images = [stack.enter_context(ImageFile.open(path)) for path in written(tmp_path, layers)]
        held = folded(images)
        stored = {one.cluster for one in stored_clusters(images)}
    found = {cluster for cluster in range(held.clusters) if held.bits[cluster // 8] >> cluster % 8 & 1}
    assert found == stored
    assert held.clusters == layers[-1][0]


@RELAXED
@given(layers=LAYERS, starts=st.lists(st.tuples(PLACES, st.integers(1, 40)), max_size=5))
def test_a_map_finds_the_first_data_within_extents_as_the_chain_does(
    tmp_path: Path, layers: list[tuple[int, dict[int, bool]]], starts: list[tuple[int, int]]
) -> None:
    extents, end = [], 0
    for first, count in sorted(starts):
        if first >= end:
            extents.append(Extent(first * CLUSTER_SIZE, count * CLUSTER_SIZE, ExtentKind.ZERO))
            end = first + count
    with ExitStack() as stack:
        images = [stack.enter_context(ImageFile.open(path)) for path in written(tmp_path, layers)]
        assert folded(images).first_within(extents) == first_stored(images, extents)


@pytest.fixture
def held(tmp_path: Path) -> HeldClusters:
    with ImageFile.open(write(tmp_path / "a.qcow2", CLUSTERS, {3: True, CLUSTERS - 1: True}, full=True)) as image:
        return HeldClusters().under(image)


def test_a_map_is_the_same_after_it_was_packed(held: HeldClusters) -> None:
    packed = held.pack("web--1/2@3", "vda")
    assert len(packed) < packed_size_max(CLUSTERS * CLUSTER_SIZE)
    assert HeldClusters.unpack(packed, "web--1/2@3", "vda", CLUSTERS * CLUSTER_SIZE - 1) == held


@pytest.mark.parametrize(
    ("point", "disk", "size"),
    [
        ("web--1/2@4", "vda", CLUSTERS * CLUSTER_SIZE),
        ("web--1/2@3", "vdb", CLUSTERS * CLUSTER_SIZE),
        ("web--1/2@3", "vda", CLUSTERS * CLUSTER_SIZE * 2),
    ],
)
def test_a_map_of_something_else_is_refused(held: HeldClusters, point: str, disk: str, size: int) -> None:
    with pytest.raises(DamagedImageError, match="belongs to something else"):
        HeldClusters.unpack(held.pack("web--1/2@3", "vda"), point, disk, size)


def test_a_damaged_map_and_one_that_would_take_all_memory_are_refused(held: HeldClusters) -> None:
    packed = bytearray(held.pack("web--1/2@3", "vda"))
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    for content in (b"", b"no map", bytes(packed[:-1]), bomb, bytes([*packed[:-1], packed[-1] ^ 1])):
        with pytest.raises(DamagedImageError):
            HeldClusters.unpack(content, "web--1/2@3", "vda", CLUSTERS * CLUSTER_SIZE)
