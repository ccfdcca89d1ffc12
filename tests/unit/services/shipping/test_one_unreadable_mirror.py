"""What a remote of which nobody can tell what it holds does to the others that a VM is shipped to."""

import pytest

from kvm_backup.domain.errors import KvmBackupError, RepositoryFormatError
from kvm_backup.domain.point import Manifest
from kvm_backup.services.prune import points_in
from tests.unit.services.shipping.conftest import Harbour


def spoil(harbour: Harbour, remote: str) -> None:
    (harbour.application.shipping.mirror(remote).root / "kvm-backup.json").write_text("{")


def waiting_point(harbour: Harbour) -> Manifest:
    point = harbour.shelf.add()
    harbour.facts.look_through()
    assert harbour.waiting() == {("nas", "web"): 1, ("away", "web"): 1}
    return point


def test_what_waits_for_the_others_is_found_and_its_name_is_told(harbour: Harbour) -> None:
    waiting_point(harbour)
    spoil(harbour, "away")
    problems: list[KvmBackupError] = []
    found = harbour.application.shipments.everything_that_waits(problems.append)
    assert [one.remote for one in found] == ["nas"]
    assert ["rescan away" in str(problem.hint) for problem in problems] == [True]


def test_pages_go_on_showing_what_was_known_to_wait_for_it(harbour: Harbour) -> None:
    point = waiting_point(harbour)
    spoil(harbour, "away")
    harbour.arrive("nas", point)
    run = harbour.ship_run("nas", point)
    harbour.facts.look_at([run])
    assert harbour.waiting() == {("away", "web"): 1}
    problems: list[KvmBackupError] = []
    harbour.facts.look_through(problems.append)
    assert harbour.waiting() == {("away", "web"): 1}
    assert len(problems) == 1


def test_retention_lets_nothing_go_while_it_cannot_tell_what_waits(harbour: Harbour) -> None:
    point = waiting_point(harbour)
    spoil(harbour, "away")
    harbour.arrive("nas", point)
    shelf = harbour.application.repository("shelf")
    prune = harbour.application.work.prune_service(shelf, lambda _event: None, lambda: False)
    with pytest.raises(RepositoryFormatError, match="away"):
        prune.run(points_in(shelf, shelf.folders()[0].name))
