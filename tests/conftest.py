"""What holds for all tests.

The turns are taken here and nowhere else: pytest-xdist calls such a hook of every conftest.py for every test,
so that a second one would wait for the first for ever.
"""

from collections.abc import Generator

import pytest

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
