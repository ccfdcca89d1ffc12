"""A real systemd as process 1 of a container: this host's /usr, all else empty and in memory; no network."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from tests.integration.product import Ended

UNIT = "kvm-backup.service"
SECONDS = 60.0
_MANAGER = Path("/usr/lib/systemd/systemd")
_MASKED = ("libvirtd.service", "virtqemud.service")
"""Our unit wants them; what the tests are about needs none."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
_CGROUPS = Path("/sys/fs/cgroup")


class Container:
    """A systemd that has booted; `leader` is its process 1 as this host counts."""

    def __init__(self, leader: int) -> None:
        self.leader = leader

    def run(self, *words: str | Path, stdin: str = "") -> Ended:
        """Run a program inside, as root, with nothing of the tester's environment."""
        inside = ["nsenter", f"--target={self.leader}", "--all", "env", "-i", f"PATH={_PATH}", "HOME=/root"]
        done = subprocess.run(
            [*inside, *words], input=stdin, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str | Path) -> "subprocess.Popen[str]":
        """Start a program inside, whose standard input stays open."""
        inside = ["nsenter", f"--target={self.leader}", "--all", "env", "-i", f"PATH={_PATH}", *words]
        return subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def systemctl(self, *words: str) -> Ended:
        """Run systemctl, which must succeed."""
        done = self.run("systemctl", *words)
        assert done.status == 0, f"{done}\n{self.run('journalctl', '--lines=20', '--no-pager').stdout}"
        return done

    def property(self, name: str) -> str:
        """What systemd says of our unit, such as `ActiveState`."""
        return self.systemctl("show", "--value", f"--property={name}", UNIT).stdout.strip()

    def said(self) -> list[str]:
        """What our unit has written to the journal."""
        return self.run("journalctl", "--output=cat", "_SYSTEMD_UNIT=" + UNIT).succeeded().stdout.splitlines()

    def drop_in(self, text: str) -> None:
        """Replace what `systemctl edit` would have written."""
        folder = f"/etc/systemd/system/{UNIT}.d"
        self.run("sh", "-c", f"mkdir -p {folder} && cat > {folder}/test.conf", stdin=text).succeeded()
        self.systemctl("daemon-reload")


@contextmanager
def booted(readable: Sequence[Path]) -> Iterator[Container]:
    """Boot it, with these folders of the host in their places. Skips the test where that is not possible.

    Nothing of the host may ever be writable in it, least of all /run: its systemd takes the sockets there over.
    """
    programs = ("systemd-nspawn", "nsenter", "unshare")
    missing = [name for name in programs if shutil.which(name) is None] + [str(_MANAGER)] * (not _MANAGER.exists())
    if missing:
        pytest.skip(f"no systemd to boot: {', '.join(missing)} is missing (Debian package systemd-container)")
    if os.geteuid() != 0:
        pytest.skip("only root can boot systemd in a container")
    with tempfile.TemporaryFile("w+") as log:
        process, leader = _boot(_words(readable), log)
        try:
            if leader is None:
                log.seek(0)
                pytest.skip(f"systemd does not boot in a container here: {log.read().strip()[-500:]}")
            yield Container(leader)
        finally:
            _end(process)


def _boot(words: list[str], log: IO[str]) -> tuple["subprocess.Popen[bytes]", int | None]:
    """Start the container; its leader's process id as soon as it has booted, None when it does not."""
    # nspawn tells on this socket how it does. It is closed again, or nspawn would stand still when it is full.
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(f"{folder}/notify")
        told.settimeout(0.5)
        environment = {"PATH": os.environ["PATH"], "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        process = subprocess.Popen(
            words,
            env=environment | {"NOTIFY_SOCKET": f"{folder}/notify"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        return process, _wait_until_booted(process, told)


def _words(readable: Sequence[Path]) -> list[str]:
    words = ["unshare", "--mount", "--propagation=private", "systemd-nspawn", "--quiet", "--directory=/"]
    # /usr of the host, read-only; everything else is empty, so that nothing of the host is seen or changed.
    words += ["--volatile=yes", "--private-network", "--register=no", "--console=pipe", "--notify-ready=yes"]
    if not Path("/run/systemd/system").is_dir():
        words.append("--keep-unit")  # no systemd out here could give it a unit of its own
    words += [f"--machine=kvm-backup-{os.getpid()}", f"--hostname={socket.gethostname()}"]
    words += [f"--bind-ro={path}" for path in readable]
    # No first boot: it would enable every service that the host's packages bring along.
    words += ["--boot", "systemd.unit=basic.target", "systemd.condition-first-boot=no"]
    return [*words, *(f"systemd.mask={name}" for name in _MASKED)]


def _wait_until_booted(process: "subprocess.Popen[bytes]", told: socket.socket) -> int | None:
    """The leader's process id; None when the container ended, or did not boot in time."""
    leader = None
    deadline = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            lines = told.recv(4096).decode().splitlines()
        except TimeoutError:
            continue
        for line in lines:
            if line.startswith("X_NSPAWN_LEADER_PID="):
                leader = int(line.partition("=")[2])
        if "READY=1" in lines:
            return leader
    return None


def _end(process: "subprocess.Popen[bytes]") -> None:
    with suppress(subprocess.TimeoutExpired):
        process.terminate()
        process.wait(SECONDS)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        process.wait(SECONDS)
    # Without a systemd out here, nspawn leaves these in the control group that the tests run in.
    for folder in ("payload/init.scope", "payload", "supervisor"):
        for hierarchy in _own_cgroups():
            with suppress(OSError):
                (hierarchy / folder).rmdir()


def _own_cgroups() -> list[Path]:
    """The folders of this process's control groups in every hierarchy."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _number, controllers, path = line.split(":", 2)
        name = controllers.removeprefix("name=")
        roots = [_CGROUPS / name] if name else [_CGROUPS, _CGROUPS / "unified"]
        found += [root / path.lstrip("/") for root in roots]
    return found
