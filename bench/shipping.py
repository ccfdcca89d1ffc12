"""How fast points are shipped beside rsync and scp, what a cut costs, and what a consolidated point sends:
`python -m bench.shipping [--mib 512] [--rounds 3]`. A real sshd on loopback; no VM is needed.

CPU is that of the whole machine (both sides of the link are on it), so that nothing else should run.
"""

import argparse
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from zoneinfo import ZoneInfo

from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.point import Manifest
from kvm_backup.domain.retention import RetentionRule
from kvm_backup.engine.qcow2.format import CLUSTER_SIZE
from kvm_backup.repository.catalogue import Catalogue
from kvm_backup.repository.ssh.remote import Remote
from kvm_backup.repository.ssh.shipment import Shipment, Shipped
from kvm_backup.services.prune import PruneService, points_in
from tests.integration.ship.servers import Server
from tests.unit.builders import Shelf

_STORED_PER_CLUSTER = CLUSTER_SIZE // 8
"""What a cluster of the points that tests make takes, compressed."""
_CUT_AT = 0.9

_TOKEN = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds by the clock, processor seconds of the whole machine."""

    seconds: float
    processor: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="kvm-backup-bench-", dir="/var/tmp") as folder,
        Server(Path(folder) / "server") as server,
    ):
        _Bench(Path(folder), server, wanted.mib, wanted.rounds).run()


class _Bench:
    def __init__(self, folder: Path, server: Server, mib: int, rounds: int) -> None:
        self._folder = folder
        self._server = server
        self._rounds = rounds
        clusters = mib * 1024 * 1024 // _STORED_PER_CLUSTER * 2
        self._shelf = Shelf(folder / "local", clusters=clusters)
        print(f"making a point of about {mib} MiB ...", flush=True)
        self._point = self._shelf.add()

    def run(self) -> None:
        self._rates()
        self._cut("shell")
        self._delta()

    def _rates(self) -> None:
        contenders: dict[str, Callable[[], object]] = {
            "scp": self._scp,
            "rsync -a": self._rsync,
            "shipped and checked there (shell)": lambda: self._ship("shell"),
            "shipped and checked by rsync (rrsync)": lambda: self._ship("rrsync"),
        }
        took: dict[str, list[Took]] = {name: [] for name in contenders}
        for number in range(self._rounds):
            names = list(contenders)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                self._empty()
                took[name].append(_measured(contenders[name]))
        size = self._point.bytes_stored / 1e6
        print(f"\n{size:.0f} MB, median of {self._rounds} (slowest-fastest)")
        for name, all_of in took.items():
            rates = sorted(size / one.seconds for one in all_of)
            processor = median(one.processor for one in all_of)
            print(
                f"  {name:40} {median(rates):6.0f} MB/s ({rates[0]:.0f}-{rates[-1]:.0f}), processor {processor:.1f} s"
            )

    def _cut(self, account: str) -> None:
        """Kill the server's side at 90 %, then ship again."""
        self._empty()
        size = self._point.bytes_stored
        stop = threading.Event()
        cutter = threading.Thread(target=self._cut_at, args=(int(size * _CUT_AT), stop))
        cutter.start()
        with suppress(KvmBackupError):
            self._ship(account)
        stop.set()
        cutter.join()
        arrived = self._arrived()
        sent = self._ship(account).moved.sent
        print(
            f"\ncut at {arrived / size:.1%} ({account}): {arrived / 1e6:.1f} MB had arrived, "
            f"{sent / 1e6:.1f} MB were sent then; together {(arrived + sent) / size:.4f} of the files"
        )

    def _cut_at(self, arrived: int, stop: threading.Event) -> None:
        while not stop.is_set() and self._arrived() < arrived:
            time.sleep(0.002)
        if not stop.is_set():
            self._server.signal(signal.SIGKILL)

    def _delta(self) -> None:
        """Ship a chain, consolidate the middle of it, ship that."""
        self._empty()
        chain = [self._point]
        for seed in (2, 3, 4):
            chain.append(self._shelf.add(chain[-1], seed=seed, every=128))
        for point in chain:
            self._ship("shell", point)
        catalogue = Catalogue.open(self._folder / "catalogue.db")
        PruneService(
            repository=self._shelf.repository,
            catalogue=catalogue,
            locks=self._folder / "locks",
            rule_for=lambda _name, _uuid: RetentionRule(last=2, daily=0, weekly=0, monthly=0),
            zone=ZoneInfo("UTC"),
            lock_wait=0,
            space_reserve=0,
            level=1,
            listener=lambda _event: None,
            stop_requested=lambda: False,
            remotes=(),
        ).run(points_in(self._shelf.repository, self._point.folder))
        full = self._shelf.repository.load(chain[2].id)
        new = sum(point.bytes_stored for point in chain[1:3])
        took: list[Shipped] = []
        measured = _measured(lambda: took.append(self._ship("shell", full, base=self._point.stamp)))
        sent = took[0].moved.sent
        print(
            f"\na consolidated point of {full.bytes_stored / 1e6:.0f} MB, {new / 1e6:.1f} MB of it not in the full "
            f"one there: {sent / 1e6:.1f} MB sent in {measured.seconds:.1f} s"
        )

    def _ship(self, account: str, point: Manifest | None = None, *, base: str | None = None) -> Shipped:
        sent = point or self._point
        with Remote(self._server.address(account), config=self._server.config, token=_TOKEN) as remote:
            remote.found(self._shelf.root)
            return remote.ship(Shipment(self._shelf.repository.path_of(sent.id), sent), base=base)

    def _scp(self) -> None:
        source = self._shelf.repository.path_of(self._point.id)
        _run(["scp", "-O", "-q", "-r", "-F", self._server.config, source, f"shell:{self._server.store}/"])

    def _rsync(self) -> None:
        source = self._shelf.repository.path_of(self._point.id)
        _run(["rsync", "-a", "-e", f"ssh -F {self._server.config}", source, f"shell:{self._server.store}/"])

    def _empty(self) -> None:
        for entry in self._server.store.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def _arrived(self) -> int:
        found = 0
        for file in self._server.store.glob("*/.incoming-*/*.qcow2"):
            with suppress(OSError):
                found += file.stat().st_size
        return found


def _measured(action: Callable[[], object]) -> Took:
    before, began = _processor(), time.monotonic()
    action()
    return Took(time.monotonic() - began, _processor() - before)


def _processor() -> float:
    """Processor seconds of all processes since the start of the machine: proc(5), /proc/stat, user nice system."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return sum(int(field) for field in (*fields[1:4], *fields[6:8])) / 100


def _run(words: Sequence[str | Path]) -> None:
    subprocess.run(words, check=True)


if __name__ == "__main__":
    main()
