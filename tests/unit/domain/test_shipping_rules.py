"""Where points go, and what of them waits."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from kvm_backup.domain.names import stamp
from kvm_backup.domain.point import Manifest, Mode
from kvm_backup.domain.shipping import remotes_of_vm, removable, waiting
from tests.unit.builders import MOMENT, a_disk, a_manifest

NAMES = ["nas", "far", "third"]


def test_without_a_word_points_go_to_every_remote() -> None:
    assert remotes_of_vm(NAMES, None, []) == NAMES
    assert remotes_of_vm(NAMES, None, [None]) == NAMES


def test_schedules_that_name_remotes_are_added_up_and_one_that_names_none_means_all() -> None:
    assert remotes_of_vm(NAMES, None, [["far"], ["nas"]]) == ["nas", "far"]
    assert remotes_of_vm(NAMES, None, [["far"], []]) == ["far"]
    assert remotes_of_vm(NAMES, None, [[]]) == []
    assert remotes_of_vm(NAMES, None, [["far"], None]) == NAMES


def test_what_is_said_of_the_vm_beats_its_schedules() -> None:
    assert remotes_of_vm(NAMES, ["far"], [None, ["nas"]]) == ["far"]
    assert remotes_of_vm(NAMES, [], [None]) == []


@given(st.lists(st.sampled_from([*NAMES, "gone"])), st.lists(st.none() | st.lists(st.sampled_from([*NAMES, "gone"]))))
def test_only_remotes_of_the_repository_come_out_each_once(own: list[str], schedules: list[list[str] | None]) -> None:
    for found in (remotes_of_vm(NAMES, own, schedules), remotes_of_vm(NAMES, None, schedules)):
        assert found == [name for name in NAMES if name in found]


def points(count: int) -> list[Manifest]:
    """A full one and incrementals on top of each other."""
    made: list[Manifest] = []
    for number in range(count):
        parent = made[-1] if made else None
        made.append(
            a_manifest(
                id=f"web--1a2b3c4d/{stamp(MOMENT + timedelta(days=number))}",
                uuid=f"00000000-0000-4000-8000-{number:012}",
                mode=Mode.INCREMENTAL if parent else Mode.FULL,
                parent=parent.id if parent else None,
                parent_uuid=parent.uuid if parent else None,
                disks=(a_disk(mode="incremental" if parent else "full"),),
            )
        )
    return made


def consolidated(point: Manifest) -> Manifest:
    return point.model_copy(
        update={"mode": Mode.FULL, "parent": None, "parent_uuid": None, "disks": (a_disk(image_sha256="cd" * 32),)}
    )


def test_a_consolidated_point_is_sent_as_what_changed_since_the_bottom_of_its_chain_there() -> None:
    there = points(4)
    full = consolidated(there[2])
    found = waiting([full, there[3]], {point.id: point for point in there}, {point.id for point in there})
    assert [(one.manifest, one.base) for one in found] == [(full, there[0])]


def test_a_point_that_the_other_side_never_had_is_sent_whole() -> None:
    here = points(2)
    assert [one.base for one in waiting(here, {}, {point.id for point in here})] == [None, None]


def test_a_snapshot_is_not_shipped() -> None:
    snapshot = points(1)[0].model_copy(update={"mode": Mode.SNAPSHOT})
    assert waiting([snapshot], {}, {snapshot.id}) == []


def test_a_point_whose_parent_the_remote_neither_has_nor_gets_is_not_sent_and_what_builds_on_it_neither() -> None:
    made = points(4)
    full_again = made[3].model_copy(update={"parent": None, "parent_uuid": None, "mode": Mode.FULL})
    everything = {point.id for point in made}
    assert waiting(made[1:], {}, everything) == []
    assert [one.manifest for one in waiting([*made[1:3], full_again], {}, everything)] == [full_again]


def test_a_point_is_not_sent_onto_another_one_of_the_same_name() -> None:
    made = points(2)
    other = made[0].model_copy(update={"uuid": "00000000-0000-4000-8000-0000000000aa"})
    assert waiting(made[1:], {other.id: other}, {point.id for point in made}) == []


def test_what_a_kept_point_builds_on_there_stays_though_it_was_consolidated_here() -> None:
    there = {point.id: point for point in points(4)}
    ids = sorted(there)
    assert removable(there, {ids[2]}) == [ids[3]]
    there[ids[2]] = consolidated(there[ids[2]])
    assert removable(there, {ids[2]}) == [ids[3], ids[1], ids[0]]


@given(st.integers(1, 6), st.sets(st.integers(0, 5)))
def test_nothing_is_removed_that_a_remaining_point_there_builds_on(count: int, kept: set[int]) -> None:
    there = {point.id: point for point in points(count)}
    wanted = {id_ for number, id_ in enumerate(sorted(there)) if number in kept}
    gone = removable(there, wanted)
    assert not wanted & set(gone)
    assert all(there[id_].parent not in gone for id_ in there.keys() - set(gone))
    assert gone == sorted(gone, reverse=True)


@given(st.integers(1, 6), st.sets(st.integers(0, 5)))
def test_what_waits_is_wanted_and_lacking_and_comes_parents_first(count: int, held: set[int]) -> None:
    here = points(count)
    there = {here[number].id: here[number] for number in held if number < count}
    found = [one.manifest for one in waiting(here, there, {point.id for point in here})]
    assert [point.id for point in found] == sorted({point.id for point in here} - there.keys())
    for number, point in enumerate(found):
        assert point.parent is None or point.parent in there or point.parent in [one.id for one in found[:number]]


@given(st.integers(1, 6), st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)))
def test_nothing_waits_that_is_not_wanted_or_would_lack_its_parent(
    count: int, held: set[int], kept: set[int]
) -> None:
    here = points(count)
    there = {here[number].id: here[number] for number in held if number < count}
    wanted = {here[number].id for number in kept if number < count}
    arriving = there.keys() | set()
    for one in waiting(here, there, wanted):
        assert one.manifest.id in wanted
        assert one.manifest.parent is None or one.manifest.parent in arriving
        arriving |= {one.manifest.id}
