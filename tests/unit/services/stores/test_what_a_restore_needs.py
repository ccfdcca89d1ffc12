"""What of a chain is fetched: nothing that the last point does not read."""

from uuid import UUID

from kvm_backup.domain.point import DiskMode, Manifest, Mode
from kvm_backup.services.stores.fetch import FetchWatch, needed_for, size_of
from tests.unit.builders import a_disk, a_manifest


def point(hour: int, *disks: tuple[str, DiskMode]) -> Manifest:
    below = {"parent": f"web--1a2b3c4d/20261122T{hour - 1:02}0000Z", "parent_uuid": str(UUID(int=hour - 1))}
    return a_manifest(
        id=f"web--1a2b3c4d/20261122T{hour:02}0000Z",
        mode=Mode.INCREMENTAL if hour > 1 else Mode.FULL,
        **(below if hour > 1 else {}),
        disks=tuple(a_disk(target, mode=mode, bytes_stored=100 * hour) for target, mode in disks),
    )


def needed(*chain: Manifest) -> list[tuple[int, list[str], int]]:
    """The hour of each point, the disks of it, and how many other files."""
    return [
        (int(one.stamp[9:11]), [disk.target for disk in one.disks], len(one.files)) for one in needed_for(list(chain))
    ]


def test_a_full_point_needs_itself_with_all_its_files() -> None:
    assert needed(point(1, ("vda", DiskMode.FULL))) == [(1, ["vda"], 1)]


def test_of_what_it_builds_on_only_images_are_needed() -> None:
    chain = [point(1, ("vda", DiskMode.FULL)), *(point(hour, ("vda", DiskMode.INCREMENTAL)) for hour in (2, 3))]
    assert needed(*chain) == [(1, ["vda"], 0), (2, ["vda"], 0), (3, ["vda"], 1)]


def test_a_disk_that_is_saved_whole_each_time_is_needed_once() -> None:
    chain = [point(1, ("vda", DiskMode.FULL), ("sda", DiskMode.FULL))]
    chain += [point(hour, ("vda", DiskMode.INCREMENTAL), ("sda", DiskMode.FULL)) for hour in (2, 3)]
    assert needed(*chain) == [(1, ["vda"], 0), (2, ["vda"], 0), (3, ["vda", "sda"], 1)]


def test_a_disk_that_came_later_and_one_that_went_are_followed_as_far_as_they_go() -> None:
    chain = [
        point(1, ("vda", DiskMode.FULL), ("vdb", DiskMode.FULL)),
        point(2, ("vda", DiskMode.INCREMENTAL), ("vdc", DiskMode.FULL)),
        point(3, ("vda", DiskMode.INCREMENTAL), ("vdc", DiskMode.INCREMENTAL)),
    ]
    assert needed(*chain) == [(1, ["vda"], 0), (2, ["vda", "vdc"], 0), (3, ["vda", "vdc"], 1)]


def test_the_size_of_a_point_is_that_of_the_files_that_are_fetched() -> None:
    whole = point(1, ("vda", DiskMode.FULL))
    assert size_of(whole) == 100 + sum(file.bytes for file in whole.files)


def test_progress_of_several_transfers_adds_up_and_never_counts_twice() -> None:
    told: list[int] = []
    watch = FetchWatch(lambda: None, told.append)
    watch.begin(100)
    for total in (40, 40, 10, 90, 300):
        watch.reached(total)
    watch.begin(50)
    watch.finish()
    assert told == [40, 50, 10, 50]
