"""What all tests on real VMs share: the guest, the lab, and their turns with libvirtd."""

from collections.abc import Callable, Generator, Iterator

import pytest

from lab import GuestImage, Lab, guest_image
from lab.host import restart_libvirtd as restart
from lab.locks import turn
from lab.paths import cache_folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let tests on VMs run side by side in several processes, but each that restarts libvirtd alone."""
    if item.get_closest_marker("vm") is None:
        return (yield)
    alone = isinstance(item, pytest.Function) and "restart_libvirtd" in item.fixturenames
    with turn(cache_folder(), alone=alone):
        return (yield)


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
