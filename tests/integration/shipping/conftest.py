"""A host with a local repository and a remote on a real sshd; its settings are those of a user."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kvm_backup.bootstrap import Application
from kvm_backup.config.settings import check
from kvm_backup.repository.encryption.marker import identity_folder
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services import events
from kvm_backup.services.prune import VmPoints, points_in
from tests.integration.ship.servers import Server
from tests.integration.shipping.keys import KEY
from tests.unit.builders import Shelf


@dataclass
class House:
    """One host, one VM on its shelf, and a server."""

    folder: Path
    server: Server
    settings: dict[str, Any] = field(default_factory=dict)
    remote: dict[str, Any] = field(default_factory=dict)
    told: list[events.Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shelf = Shelf(self.folder / "local")
        self.application = self.restart()

    def restart(self) -> Application:
        """The application anew, with what `settings` and `remote` say now."""
        url = str(self.server.address())
        self.application = Application(
            check(
                {
                    "state_dir": str(self.folder / "state"),
                    "timezone": "UTC",
                    "host": "alpha",
                    "default_repository": "shelf",
                    "ssh_config": str(self.server.config),
                    "backup": {"space_reserve": 0, "lock_wait": 0},
                    "repository": [
                        {"name": "shelf", "path": str(self.folder / "local")},
                        {"name": "nas", "url": url, "of": "shelf"} | self.remote,
                    ],
                }
                | self.settings,
                None,
            )
        )
        return self.application

    @property
    def points(self) -> VmPoints:
        return points_in(self.shelf.repository, self.shelf.repository.folders()[0].name)

    @property
    def there(self) -> LocalRepository:
        """What whoever looks on the server finds."""
        return LocalRepository.open("there", self.server.store)

    def found(self) -> None:
        """Make the repository on the server, as `repository add` does."""
        with self.application.shipping.connect("nas") as remote:
            remote.found(self.shelf.root)

    def use(self, account: str) -> None:
        """Reach the server by that account, of which everything is known that is there."""
        self.remote["url"] = str(self.server.address(account))
        self.restart()
        self.rescan()

    def rescan(self) -> None:
        """Read what is there, as `repository rescan` does."""
        self.restart().remotes.rescan("nas")

    def ship(self) -> list[str]:
        """Ship the VM; the ids of what was sent."""
        self.told.clear()
        return list(self.application.shipping.service("nas", self.told.append).run(self.points).points)

    def waiting(self) -> list[str]:
        return [
            one.manifest.id
            for departure in self.application.shipping.departures.all()
            for one in departure.lack.to_ship
        ]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "server") as made:
        yield made


@pytest.fixture
def house(tmp_path: Path, server: Server) -> House:
    made = House(tmp_path, server)
    made.found()
    return made


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "nas.key"
    file.write_text(KEY.secrets[0])
    return file


@pytest.fixture
def sealed(tmp_path: Path, server: Server) -> House:
    """A house whose remote has a recipient, proved, and no private key."""
    house = House(tmp_path, server, remote={"recipients": list(KEY.recipients)})
    house.application.proved_recipients.prove(KEY.recipients[0], KEY)
    with (
        identity_folder(house.shelf.root, KEY.recipients) as identity,
        house.application.shipping.connect("nas") as remote,
    ):
        remote.found(identity)
    return house
