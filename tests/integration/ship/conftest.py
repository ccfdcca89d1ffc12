"""A server of its own for each test, and a local repository to ship from."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.ship.servers import Server
from tests.unit.builders import Shelf


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "server") as made:
        yield made


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "local")
