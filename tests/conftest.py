"""What holds for all tests.

The turns are taken here and nowhere else: pytest-xdist calls such a hook of every conftest.py for every test,
so that a second one would wait for the first for ever.
"""

from collections.abc import Generator
from pathlib import Path

import pytest

from lab.locks import turn

_LIBVIRT = Path("/run/libvirt")
"""Of the libvirtd that this process sees; `make test` starts each process with its own (scripts/with-own-libvirt)."""

_LONG = ("test_queue.py", "test_serving.py", "test_frame_in_browser.py", "test_prune.py", "test_commands.py")
"""Files outside of the folders of VMs and servers whose tests wait the longest together."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let tests on VMs that share a libvirtd run side by side, but each that restarts it alone."""
    if item.get_closest_marker("vm") is None:
        return (yield)
    alone = isinstance(item, pytest.Function) and "restart_libvirtd" in item.fixturenames
    with turn(_LIBVIRT, alone=alone):
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take minutes, so that at the end no worker is alone with one of them."""
    slow = {item.path for item in items if item.get_closest_marker("vm") is not None}

    def turn_of(item: pytest.Item) -> int:
        if item.path in slow:
            return 0
        return 1 if "integration" in item.path.parts or item.path.name in _LONG else 2

    items.sort(key=turn_of)
