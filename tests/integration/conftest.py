"""What all tests on real VMs share: the guest and the lab."""

from collections.abc import Callable, Iterator

import pytest

from lab import GuestImage, Lab, guest_image
from lab.host import restart_libvirtd as restart


@pytest.fixture(scope="session")
def guest() -> GuestImage:
    """The lab's guest, built when the cache does not hold it; one process builds, others wait."""
    return guest_image()


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab for one test."""
    with Lab() as made:
        yield made


@pytest.fixture(scope="module")
def module_lab() -> Iterator[Lab]:
    """A lab for the tests of one module, where a VM serves several of them."""
    with Lab() as made:
        yield made


@pytest.fixture
def restart_libvirtd() -> Callable[[], None]:
    """Restarts libvirtd when called; a test that asks for this runs while no other test on VMs does."""
    return restart
