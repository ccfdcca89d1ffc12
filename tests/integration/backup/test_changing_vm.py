"""A VM whose disks are written to, discarded, grown, added and taken away: every point holds what was there."""

import random

import pytest

from lab import DiskSpec, Lab, LabVm
from lab.disks import MIB
from tests.integration.backup.witness import Sighting, Witness
from tests.integration.product import Json, Product

pytestmark = pytest.mark.vm

BLOCK = 64 * 1024
ODD_SIZE = 5 * MIB + 512 * 7
"""No multiple of 64 KiB."""

STEPS = [
    "first",
    "written",
    "discarded",
    "grown",
    "written-behind-old-end",
    "disk-added",
    "added-disk-written",
    "idle",
]


class Story:
    """A VM, the points made of it, each with what its disks held."""

    def __init__(self, lab: Lab, product: Product) -> None:
        self.vm: LabVm = lab.create_vm("story", [DiskSpec(size=24 * MIB), DiskSpec(size=ODD_SIZE)], guest=False)
        self.witness = Witness(product, lab.folder)
        self.product = product
        self.targets = ["vda", "vdb"]
        self.seen: dict[str, Sighting] = {}
        self.made: dict[str, Json] = {}
        self.chance = random.Random(2)

    def point(self, step: str) -> None:
        references = self.witness.copy(self.vm, *self.targets)
        self.made[step] = self.product.backup(self.vm.name)
        self.seen[step] = Sighting(self.made[step]["point"], references)

    def scatter(self, target: str, size: int, times: int = 12) -> None:
        """Short writes at any sector, also at the very end."""
        for _ in range(times):
            length = self.chance.randrange(1, 300) * 512
            offset = self.chance.randrange((size - length) // 512) * 512
            self.vm.write_blocks(target, offset, length, self.chance.randrange(1, 256))
        self.vm.write_blocks(target, size - 512, 512, self.chance.randrange(1, 256))


@pytest.fixture(scope="module")
def story(module_lab: Lab, product: Product) -> Story:
    told = Story(module_lab, product)
    vm = told.vm
    told.scatter("vda", 24 * MIB, 30)
    told.scatter("vdb", ODD_SIZE)
    vm.write_blocks("vda", 8 * MIB, 4 * MIB, 0x11)
    told.point("first")
    told.scatter("vda", 24 * MIB)
    told.scatter("vdb", ODD_SIZE)
    told.point("written")
    vm.discard_blocks("vda", 9 * MIB, MIB)
    vm.write_zeros("vda", 11 * MIB, MIB // 2)
    vm.write_blocks("vda", 8 * MIB, BLOCK, 0)
    told.point("discarded")
    vm.resize_disk("vda", 40 * MIB + 512)
    told.point("grown")
    told.scatter("vda", 40 * MIB + 512)
    told.point("written-behind-old-end")
    told.targets.append(vm.attach_disk(DiskSpec(size=3 * MIB)))
    vm.write_blocks("vdc", MIB, MIB, 0x33)
    told.point("disk-added")
    told.scatter("vdc", 3 * MIB)
    told.point("added-disk-written")
    told.point("idle")
    return told


@pytest.mark.parametrize("step", STEPS)
def test_point_restores_to_what_the_disks_held_at_its_instant(story: Story, step: str) -> None:
    story.witness.confirm(story.seen[step])


def test_points_that_are_compared_hold_different_data(story: Story) -> None:
    """Or the comparisons above would prove little: each change of the story shows in a reference."""
    contents = [story.seen[step].references["vda"].read_bytes() for step in STEPS[:5]]
    assert len(set(contents)) == len(contents)


@pytest.mark.parametrize(
    ("step", "mode", "reason"),
    [
        ("first", "full", "no-point"),
        ("written", "incremental", None),
        ("discarded", "incremental", None),
        ("grown", "incremental", None),
        ("written-behind-old-end", "incremental", None),
        ("disk-added", "full", "disk-added"),
        ("added-disk-written", "incremental", None),
        ("idle", "incremental", None),
    ],
)
def test_run_is_incremental_unless_a_disk_was_added(story: Story, step: str, mode: str, reason: str | None) -> None:
    made = story.made[step]
    assert (made["mode"], made["requested_mode"], made["reason"]) == (mode, "incremental", reason)


def test_incremental_reads_what_changed_and_no_more(story: Story) -> None:
    assert story.made["idle"]["bytes_read"] == 0
    # What reads as zero is not read at all.
    assert story.made["discarded"]["bytes_read"] <= BLOCK
    assert 0 < story.made["written"]["bytes_read"] <= 26 * 7 * BLOCK


def test_whole_story_verifies_down_to_each_cluster(story: Story, product: Product) -> None:
    status, verdicts = product.verify("--all", "--deep")
    assert status == 0
    assert [verdict["good"] for verdict in verdicts] == [True] * len(STEPS)


def test_host_keeps_one_checkpoint_and_nothing_else(story: Story, product: Product) -> None:
    checkpoints = [checkpoint.getName() for checkpoint in story.vm.domain.listAllCheckpoints()]
    assert checkpoints == [product.point(story.made["idle"]["point"])["checkpoint"]]
    assert product.leftovers(story.vm.name) == []
