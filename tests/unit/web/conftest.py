"""One server for all tests that only look; each of the others starts its own."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.unit.web.dashboard import Dashboard, running
from tests.unit.web.schedules.conftest import empty_database, site

__all__ = ["empty_database", "site"]


@pytest.fixture(scope="session")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """A server that runs already."""
    with running(Dashboard(tmp_path_factory.mktemp("dashboard") / "state")) as started:
        yield started


@pytest.fixture
def own_dashboard(tmp_path: Path) -> Iterator[Dashboard]:
    """A server of this test alone."""
    with running(Dashboard(tmp_path / "state")) as started:
        yield started


@pytest.fixture
def visitor(dashboard: Dashboard) -> Iterator[httpx.Client]:
    """Somebody who has not logged in."""
    with dashboard.client() as client:
        yield client


@pytest.fixture
def administrator(dashboard: Dashboard) -> Iterator[httpx.Client]:
    """Somebody who may do everything."""
    with dashboard.logged_in() as client:
        yield client
