"""A host with a repository that two remotes copy; nobody is connected to: what arrived is written into the mirror."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kvm_backup.bootstrap import Application
from kvm_backup.config.settings import check
from kvm_backup.domain.point import Manifest, serialize
from kvm_backup.domain.run import Run, RunResult, RunState
from kvm_backup.services.prune import points_in
from kvm_backup.services.shipping.departures import AUTOMATIC
from kvm_backup.services.shipping.facts import ShippingFacts
from tests.unit.builders import Shelf

_ARRIVED = RunResult(bytes_read=1)


@dataclass
class Harbour:
    """`now` is moved by tests."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    now: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    def __post_init__(self) -> None:
        self.shelf = Shelf(self.folder / "local")
        self.restart()

    def restart(self) -> "Harbour":
        """The application anew, with what `settings` says now."""
        remotes = [
            {"name": name, "url": f"ssh://backup@{name}.example/srv", "of": "shelf"} for name in ("nas", "away")
        ]
        told = {
            "state_dir": str(self.folder / "state"),
            "timezone": "UTC",
            "host": "alpha",
            "default_repository": "shelf",
            "libvirt": {"uri": "test:///default"},
            "repository": [{"name": "shelf", "path": str(self.folder / "local")}, *remotes],
        }
        self.application = Application(check(told | self.settings, None))
        self.facts: ShippingFacts = self.application.shipping.facts
        self.facts.clock = self.clock
        self.facts.troubles_hold = 0.0
        return self

    def clock(self) -> datetime:
        return self.now

    def arrive(self, remote: str, *points: Manifest) -> None:
        """The points are there now."""
        mirror = self.application.shipping.mirror(remote)
        for point in points:
            mirror.record(point.id, serialize(point))

    def ship_run(
        self,
        remote: str,
        point: Manifest,
        state: RunState = RunState.SUCCEEDED,
        result: RunResult = _ARRIVED,
    ) -> Run:
        """A run that ships the VM, as it is after an attempt."""
        points = points_in(self.shelf.repository, point.id.partition("/")[0])
        history = self.application.history
        run = history.create(self.application.shipping.departures.request(remote, points, AUTOMATIC).as_run())
        history.start(run.id)
        if state is RunState.WAITING:
            history.wait(run.id, self.now + timedelta(minutes=1), result)
        elif state.final:
            history.finish(run.id, state, result)
        return history.get(run.id)

    def waiting(self) -> dict[tuple[str, str], int]:
        """How many points of which VM wait for which remote, as pages see it."""
        return {(one.remote, one.vm_name): len(one.points) for one in self.facts.store.page()}


@pytest.fixture
def harbour(tmp_path: Path) -> Harbour:
    return Harbour(tmp_path)


def failed(code: str) -> RunResult:
    return RunResult(error=f"it says {code}", error_code=code, hint="Mend it.")
