"""Where each point of a VM is, as its page tells."""

from kvm_backup.repository.elsewhere import mark_elsewhere
from kvm_backup.services.point_places import PlacedPoint
from tests.unit.builders import VM_UUID
from tests.unit.services.shipping.conftest import Harbour


def placed(harbour: Harbour) -> list[PlacedPoint]:
    """Newest first, after everything was looked through."""
    application = harbour.application
    application.catalogue.refresh(harbour.shelf.repository)
    harbour.facts.look_through()
    return list(application.points.placed(VM_UUID).points)


def test_a_point_is_told_once_with_all_its_places_and_where_it_still_goes(harbour: Harbour) -> None:
    first = harbour.shelf.add()
    second = harbour.shelf.add(first)
    harbour.arrive("nas", first, second)
    harbour.arrive("away", first)
    newest, oldest = placed(harbour)
    assert (newest.point, newest.here, newest.copies, newest.waits) == (second, True, ("nas",), ("away",))
    assert (oldest.repository, oldest.copies, oldest.waits) == ("shelf", ("away", "nas"), ())
    assert newest.links == 2


def test_a_point_that_is_gone_here_is_read_from_where_it_still_is(harbour: Harbour) -> None:
    first = harbour.shelf.add()
    harbour.shelf.add()
    harbour.arrive("nas", first)
    harbour.shelf.repository.withdraw(first.id)
    [_, gone] = placed(harbour)
    assert (gone.point, gone.repository, gone.home, gone.here, gone.copies) == (first, "nas", None, False, ("nas",))
    assert gone.is_in("nas")
    assert not gone.is_in("shelf")


def test_a_point_whose_images_are_elsewhere_is_read_from_there(harbour: Harbour) -> None:
    first = harbour.shelf.add()
    harbour.arrive("nas", first)
    mark_elsewhere(harbour.shelf.repository.path_of(first.id), ["nas"])
    [one] = placed(harbour)
    assert (one.repository, one.home, one.here, one.copies) == ("nas", "shelf", False, ("nas",))
    assert one.is_in("shelf")


def test_a_copy_in_another_state_is_none_and_waits_again(harbour: Harbour) -> None:
    first = harbour.shelf.add()
    harbour.arrive("nas", first.model_copy(update={"tool_version": "0.0.9"}))
    [one] = placed(harbour)
    assert (one.copies, one.waits) == ((), ("away", "nas"))
