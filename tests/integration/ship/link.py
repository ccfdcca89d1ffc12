"""The way between this host and a server, for tests that count, delay or break it."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.integration.ship.servers import Server


@dataclass(frozen=True)
class Rules:
    """`delay` in seconds each way; after so many bytes to the server the link is cut, or falls silent."""

    delay: float = 0.0
    cut_after: int | None = None
    silent_after: int | None = None


class Link:
    """Lies between a server and all who use its ssh configuration."""

    def __init__(self, server: Server) -> None:
        self._folder = server.root / "link"
        self._folder.mkdir()
        self.follow(Rules())
        program = Path(__file__).with_name("wire.py")
        with server.config.open("a") as config:
            config.write(f"  ProxyCommand {sys.executable} {program} {self._folder} {server.host} {server.port}\n")

    def follow(self, rules: Rules) -> None:
        """Rules for the connections that begin from now on."""
        (self._folder / "rules.json").write_text(json.dumps(asdict(rules)))

    @property
    def sent(self) -> int:
        """Bytes that reached the server, over all connections."""
        return sum(int(file.read_text() or 0) for file in self._folder.glob("sent-*"))
