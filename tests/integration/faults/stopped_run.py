"""A run of the product that stands still at an instant, its guard, and what a test does to both."""

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.integration.product import Ended, Product

SECONDS = 120.0


class StoppedRun:
    """The product's process, stopped at the instant that was asked for."""

    def __init__(self, process: "subprocess.Popen[str]", stderr: "tempfile._TemporaryFileWrapper[str]") -> None:
        self._process = process
        self._stderr = stderr

    @property
    def guard(self) -> int | None:
        """The process id of its guard, while there is one."""
        for pid in children(self._process.pid):
            if "kvm_backup.hypervisor.guard_process" in command_line(pid):
                return pid
        return None

    def kill(self) -> None:
        """SIGKILL to the run alone; returns when its guard has ended too."""
        guard = self.guard
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait(SECONDS)
        if guard is not None:
            wait_for_end(guard)

    def kill_with_guard(self) -> None:
        """SIGKILL to the guard and to the run, which had no chance to notice: nobody is left to clean up."""
        guard = self.guard
        if guard is not None:
            os.kill(guard, signal.SIGKILL)
        self.kill()

    def go_on(self) -> None:
        """Let the run continue."""
        self._process.send_signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        """Send a signal, which arrives when the run goes on."""
        self._process.send_signal(number)

    def finish(self) -> Ended:
        """Let the run go on to its end."""
        self.go_on()
        stdout, _ = self._process.communicate(timeout=SECONDS)
        self._stderr.seek(0)
        return Ended(self._process.returncode, stdout, self._stderr.read())


@contextmanager
def stopped_at(product: Product, instant: str, *words: str | Path) -> Iterator[StoppedRun]:
    """Start `kvm-backup WORDS` and yield it when it stands still at `instant` of driver.INSTANTS."""
    with tempfile.NamedTemporaryFile("w+") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.faults.driver", instant, *words],
            env=product.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        run = StoppedRun(process, stderr)
        try:
            _wait_until_it_stands(process, Path(stderr.name))
            yield run
        finally:
            if process.poll() is None:
                run.kill()
            assert process.stdout is not None
            process.stdout.close()


def _wait_until_it_stands(process: "subprocess.Popen[str]", stderr: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        # Popen must not find out by itself, so the child stays waitable here.
        found = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if found is not None and found.si_code == os.CLD_STOPPED:
            return
        if found is not None:
            said = process.communicate(timeout=SECONDS)[0]
            raise AssertionError(f"it ended before it stood still: {said}{stderr.read_text()}")
        time.sleep(0.01)
    raise AssertionError(f"it did not come to stand still: {stderr.read_text()}")


def children(pid: int) -> list[int]:
    """Process ids of the children of a process, whichever of its threads started them."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            found += [int(word) for word in (thread / "children").read_text().split()]
    return found


def command_line(pid: int) -> str:
    """What a process was started with; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def wait_for_end(pid: int) -> None:
    """Wait until a process that is no child of ours has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([handle], [], [], SECONDS)[0], f"process {pid} ({command_line(pid)}) does not end"
    finally:
        os.close(handle)
