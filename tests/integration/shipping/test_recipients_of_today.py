"""Nothing new builds on points that a server holds encrypted for nobody who is a recipient today."""

from kvm_backup.domain.point import Manifest, serialize
from kvm_backup.domain.vm import Vm, VmState
from kvm_backup.repository.encryption.keys import Identities
from tests.integration.shipping.conftest import House
from tests.unit.builders import VM_UUID


def closed(house: House) -> frozenset[str]:
    """What the next backup of the VM builds nothing on."""
    vm = Vm(name="web", uuid=VM_UUID, state=VmState.STOPPED, disks=())
    return house.application.rules.backup_options(vm, house.application.repository("shelf")).closed


def exchange_the_key(house: House, *beside: str) -> None:
    new = Identities.new()
    house.application.proved_recipients.prove(new.recipients[0], new)
    house.remote["recipients"] = [*beside, *new.recipients]
    house.restart()


def two_shipped(house: House) -> list[Manifest]:
    full = house.shelf.add()
    points = [full, house.shelf.add(full, seed=2)]
    house.ship()
    return points


def test_what_was_sent_to_another_recipient_is_closed_and_what_waited_meanwhile_is_not(sealed: House) -> None:
    points = two_shipped(sealed)
    assert closed(sealed) == frozenset()
    waiting = sealed.shelf.add(points[-1], seed=3)
    exchange_the_key(sealed)
    assert closed(sealed) == {point.id for point in points}
    sealed.ship()
    assert waiting.id not in closed(sealed)
    full = sealed.shelf.add(seed=4)
    child = sealed.shelf.add(full, seed=5)
    assert sealed.ship() == [full.id, child.id]
    assert not {full.id, child.id} & closed(sealed)


def test_a_recipient_beside_the_old_one_closes_nothing(sealed: House) -> None:
    two_shipped(sealed)
    exchange_the_key(sealed, *sealed.remote["recipients"])
    assert closed(sealed) == frozenset()


def test_a_point_that_was_consolidated_since_and_waits_is_open(sealed: House) -> None:
    full, child = two_shipped(sealed)
    exchange_the_key(sealed)
    changed = child.model_copy(update={"notices": ("consolidated",)})
    sealed.shelf.replace_manifest(child, serialize(changed))
    assert closed(sealed) == {full.id}


def test_points_that_are_not_encrypted_are_never_closed(house: House) -> None:
    two_shipped(house)
    assert closed(house) == frozenset()
