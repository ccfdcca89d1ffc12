"""Which images may go: only what is held elsewhere, and never what a point that is not shipped yet builds on."""

from hypothesis import given
from hypothesis import strategies as st

from kvm_backup.domain.keep_local import KeepLocal, LocalPoint, may_go


@st.composite
def folders(draw: st.DrawFn) -> list[LocalPoint]:
    """The points of a VM in any order: each full, or on an older one, which may be gone."""
    points: list[LocalPoint] = []
    for number in range(draw(st.integers(0, 9))):
        parent = draw(st.none() | st.sampled_from([f"{older}" for older in range(number)])) if number else None
        points.append(LocalPoint(str(number), parent, draw(st.booleans())))
    return draw(st.permutations([point for point in points if draw(st.integers(0, 9))]))


def chain_of(point: LocalPoint, points: list[LocalPoint]) -> set[str]:
    by_id = {one.id: one for one in points}
    chain = {point.id}
    while point.parent in by_id:
        point = by_id[point.parent]
        chain.add(point.id)
    return chain


@given(folders(), st.sampled_from(KeepLocal))
def test_only_shipped_points_go_and_those_that_are_not_keep_their_whole_chain(
    points: list[LocalPoint], keep: KeepLocal
) -> None:
    gone = set(may_go(points, keep))
    for point in points:
        if not point.shipped:
            assert not chain_of(point, points) & gone


@given(folders())
def test_all_that_is_not_needed_goes_where_nothing_has_to_stay(points: list[LocalPoint]) -> None:
    waiting = {id_ for point in points if not point.shipped for id_ in chain_of(point, points)}
    assert set(may_go(points, KeepLocal.NOTHING)) == {point.id for point in points} - waiting


@given(folders())
def test_the_newest_chain_stays_where_that_is_wanted_and_nothing_else_that_could_go(points: list[LocalPoint]) -> None:
    newest = max(points, key=lambda point: point.id, default=None)
    chain = chain_of(newest, points) if newest else set()
    assert set(may_go(points, KeepLocal.NEWEST_CHAIN)) == set(may_go(points, KeepLocal.NOTHING)) - chain


@given(folders())
def test_nothing_goes_where_all_shall_stay(points: list[LocalPoint]) -> None:
    assert may_go(points, KeepLocal.ALL) == []


@given(folders(), st.sampled_from(KeepLocal))
def test_wherever_one_stops_what_is_here_has_its_parents_here(points: list[LocalPoint], keep: KeepLocal) -> None:
    order = may_go(points, keep)
    for stop in range(len(order)):
        here = [point for point in points if point.id not in order[:stop]]
        for point in here:
            assert point.parent not in order[:stop]


def test_a_point_that_is_its_own_parent_ends_nothing() -> None:
    assert may_go([LocalPoint("1", "1", shipped=False), LocalPoint("0", "1", shipped=True)], KeepLocal.NOTHING) == [
        "0"
    ]
