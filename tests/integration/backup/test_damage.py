"""One flipped bit anywhere, a file swapped, a parent gone: it is found and named, and nothing is restored from it."""

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import DiskSpec, Lab
from lab.disks import MIB
from tests.integration.backup.witness import Witness, same_disks
from tests.integration.product import Json, Product

pytestmark = pytest.mark.vm

FLIPS_OF_AN_IMAGE = 20


@dataclass(frozen=True)
class Chain:
    """Points of one VM: a full one, two incrementals, and a full one; references of the third."""

    points: list[str]
    references: dict[str, Path]


@pytest.fixture(scope="module")
def chain(module_lab: Lab, product: Product, witness: Witness) -> Chain:
    vm = module_lab.create_vm("damage", [DiskSpec(size=8 * MIB), DiskSpec(size=8 * MIB)], guest=False)
    points, references = [], {}
    for number, mode in enumerate(["full", "incremental", "incremental", "full"], start=1):
        for target in ("vda", "vdb"):
            vm.write_blocks(target, number * MIB, MIB // 2, number)
        copies = witness.copy(vm, "vda", "vdb")
        if number == 3:
            references = copies
        points.append(product.backup(vm.name, mode)["point"])
    return Chain(points, references)


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    content = path.read_bytes()
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    path.write_bytes(changed)
    try:
        yield
    finally:
        path.write_bytes(content)


@contextmanager
def out_of_the_way(path: Path) -> Iterator[None]:
    aside = path.with_name(f"aside-{path.name}")
    path.rename(aside)
    try:
        yield
    finally:
        if path.is_dir():
            shutil.rmtree(path)
        aside.rename(path)


@contextmanager
def swapped(one: Path, other: Path) -> Iterator[None]:
    kept = one.read_bytes(), other.read_bytes()
    one.write_bytes(kept[1])
    other.write_bytes(kept[0])
    try:
        yield
    finally:
        one.write_bytes(kept[0])
        other.write_bytes(kept[1])


def findings(product: Product, *words: str) -> list[Json]:
    """What verify finds, which must say that something is wrong."""
    status, verdicts = product.verify(*words)
    assert status == 1
    found = [finding for verdict in verdicts if not verdict["good"] for finding in verdict["findings"]]
    assert found
    return found


Refuses = Callable[[str], str]


@pytest.fixture
def restore_refuses(product: Product, witness: Witness) -> Refuses:
    """Checks that a point cannot be restored and that nothing is written; what was said."""

    def check(point: str) -> str:
        to = witness.new_path("refused")
        done = product.run("restore", point, "--to", to).failed(1)
        assert "HINT:" in done.stderr
        assert not to.exists()
        return done.stderr

    return check


def test_chain_is_whole_before_anything_is_done_to_it(chain: Chain, product: Product, witness: Witness) -> None:
    status, verdicts = product.verify("--all", "--deep")
    assert (status, len(verdicts)) == (0, 4)
    same_disks(witness.restored(chain.points[2], "qcow2"), chain.references)


@pytest.mark.parametrize("number", range(FLIPS_OF_AN_IMAGE))
def test_flipped_bit_of_an_image_is_named(chain: Chain, product: Product, number: int) -> None:
    """At places spread over the file, the first and the last bit among them."""
    point = chain.points[number % 3]
    image = product.path_of(point) / "vda.qcow2"
    bits = image.stat().st_size * 8
    place = random.Random(number)
    bit = {0: 0, 1: bits - 1, 2: 8 * 104}.get(number, place.randrange(bits))
    with flipped(image, bit):
        found = findings(product, point)
    assert {(one["point"], one["file"]) for one in found} == {(point, "vda.qcow2")}


def test_flipped_bit_of_data_is_found_at_its_offset_of_file_and_disk(chain: Chain, product: Product) -> None:
    """The second point holds nothing but 512 KiB at 2 MiB, and its clusters begin right behind the header."""
    image = product.path_of(chain.points[1]) / "vda.qcow2"
    content = image.read_bytes()
    # A zstd frame begins with these bytes (RFC 8878); its checksum ends it.
    frame = content.index(b"\x28\xb5\x2f\xfd", 65536)
    with flipped(image, (frame + 9) * 8 + 3):
        found = findings(product, chain.points[1])
    places = [(one["file_offset"], one["disk_offset"]) for one in found if one["disk_offset"] is not None]
    assert places == [(frame, 2 * MIB)]


@pytest.mark.parametrize("name", ["manifest.json", "domain.xml"])
def test_flipped_bit_of_a_small_file_is_named(
    chain: Chain, product: Product, restore_refuses: Refuses, name: str
) -> None:
    path = product.path_of(chain.points[2]) / name
    place = random.Random(3)
    for bit in (0, path.stat().st_size * 8 - 1, *(place.randrange(path.stat().st_size * 8) for _ in range(4))):
        with flipped(path, bit):
            found = findings(product, "--all")
            assert {(one["point"], one["file"]) for one in found} == {(chain.points[2], name)}
    with flipped(path, 8 * 100):
        restore_refuses(chain.points[2])


@pytest.mark.parametrize("damaged", range(3))
def test_restore_from_a_damaged_link_is_refused_with_its_name(
    chain: Chain, product: Product, restore_refuses: Refuses, damaged: int
) -> None:
    image = product.path_of(chain.points[damaged]) / "vdb.qcow2"
    with flipped(image, image.stat().st_size * 4):
        assert f"{chain.points[damaged]}/vdb.qcow2 is damaged" in restore_refuses(chain.points[2])
        # A chain that does not pass there is not held up.
        assert product.run("verify", chain.points[3]).status == 0


@pytest.mark.parametrize("gone", range(2))
def test_missing_parent_is_named(chain: Chain, product: Product, restore_refuses: Refuses, gone: int) -> None:
    with out_of_the_way(product.path_of(chain.points[gone])):
        found = findings(product, "--all")
        assert [(one["point"], one["kind"]) for one in found] == [(chain.points[gone + 1], "parent-missing")]
        assert chain.points[gone] in found[0]["message"]
        assert chain.points[gone] in restore_refuses(chain.points[2])


def test_missing_image_is_named(chain: Chain, product: Product, restore_refuses: Refuses) -> None:
    image = product.path_of(chain.points[0]) / "vdb.qcow2"
    with out_of_the_way(image):
        found = findings(product, "--all")
        named = {(one["point"], one["file"], one["kind"]) for one in found}
        assert (chain.points[0], "vdb.qcow2", "missing") in named
        restore_refuses(chain.points[2])


def test_missing_manifest_is_named(chain: Chain, product: Product, restore_refuses: Refuses) -> None:
    with out_of_the_way(product.path_of(chain.points[1]) / "manifest.json"):
        found = findings(product, "--all")
        assert chain.points[1] in {one["point"] for one in found}
        restore_refuses(chain.points[1])
        restore_refuses(chain.points[2])


def test_another_point_in_the_parents_place_is_foreign(
    chain: Chain, product: Product, restore_refuses: Refuses
) -> None:
    parent = product.path_of(chain.points[0])
    with out_of_the_way(parent):
        shutil.copytree(product.path_of(chain.points[3]), parent)
        found = findings(product, "--all")
        assert {one["point"] for one in found} >= {chain.points[0]}
        restore_refuses(chain.points[2])


@pytest.mark.parametrize(
    ("one", "other"),
    [((0, "vda"), (0, "vdb")), ((0, "vda"), (3, "vda")), ((1, "vda"), (2, "vda"))],
    ids=["disks-of-a-point", "points-of-a-disk", "links-of-a-chain"],
)
def test_swapped_images_are_both_named(
    chain: Chain, product: Product, restore_refuses: Refuses, one: tuple[int, str], other: tuple[int, str]
) -> None:
    paths = [product.path_of(chain.points[number]) / f"{disk}.qcow2" for number, disk in (one, other)]
    with swapped(*paths):
        found = findings(product, "--all")
        named = {(finding["point"], finding["file"]) for finding in found}
        assert named == {(chain.points[number], f"{disk}.qcow2") for number, disk in (one, other)}
        assert "foreign" in {finding["kind"] for finding in found}
        restore_refuses(chain.points[2])


def test_damaged_newest_point_makes_the_next_one_full_and_stays_untouched(
    module_lab: Lab, product: Product, witness: Witness
) -> None:
    vm = module_lab.create_vm("after-damage", [DiskSpec(size=2 * MIB)], guest=False)
    vm.write_blocks("vda", 0, MIB, 1)
    manifest = product.path_of(product.backup(vm.name)["point"]) / "manifest.json"
    with flipped(manifest, 80):
        broken = manifest.read_bytes()
        made = witness.back_up(vm)
        assert (made["mode"], made["reason"]) == ("full", "point-damaged")
        assert manifest.read_bytes() == broken


def test_truncated_parent_makes_the_next_one_full(module_lab: Lab, product: Product, witness: Witness) -> None:
    vm = module_lab.create_vm("truncated", [DiskSpec(size=2 * MIB)], guest=False)
    vm.write_blocks("vda", 0, MIB, 1)
    image = product.path_of(product.backup(vm.name)["point"]) / "vda.qcow2"
    image.write_bytes(image.read_bytes()[:-512])
    made = witness.back_up(vm)
    assert (made["mode"], made["reason"]) == ("full", "chain-broken")


def test_whole_chain_is_as_it_was(chain: Chain, product: Product, witness: Witness) -> None:
    """All that was done above was undone, so that no test saw the damage of another."""
    for point in chain.points:
        assert product.run("verify", point, "--deep").status == 0
    same_disks(witness.restored(chain.points[2], "qcow2"), chain.references)
