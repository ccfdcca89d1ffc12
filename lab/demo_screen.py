"""How the demo looks: steps, commands as they are typed, a table at the end. Plain when it is no terminal."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lab.errors import LabError

KVM_BACKUP = Path(sys.prefix) / "bin" / "kvm-backup"


class Screen:
    """Standard output, and the real kvm-backup running on it."""

    def __init__(self, state: Path, settings: Path, lock: int) -> None:
        """`state` and `settings` are the state folder and the settings file that kvm-backup gets.

        Programs hold `lock` as long as they run.
        """
        # A pipe takes lines of any length; nothing is wrapped that somebody may want to grep.
        self._console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
        # The settings of this host, whether in its file or in variables, are no concern of the demo.
        others = {key: value for key, value in os.environ.items() if not key.startswith("KVM_BACKUP_")}
        self._environment = others | {"KVM_BACKUP_STATE_DIR": str(state), "KVM_BACKUP_CONFIG": str(settings)}
        self._lock = lock
        self._steps = 0

    def title(self, text: str, line: str) -> None:
        self._console.print(f"[bold]{escape(text)}[/bold]\n{escape(line)}")

    def step(self, text: str) -> None:
        """A new step begins."""
        self._steps += 1
        self._console.print(f"\n[bold cyan]{self._steps}[/bold cyan] [bold]{escape(text)}[/bold]")

    def say(self, text: str) -> None:
        self._console.print(f"  {escape(text)}")

    def good(self, text: str) -> None:
        self._console.print(f"  [green]✓[/green] {escape(text)}")

    def failed(self, text: str) -> None:
        self._console.file.flush()
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]✗[/red] {escape(text)}")

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """A spinner while something takes its time; nothing in a pipe."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status(f"[dim]{escape(text)}[/dim]"):
            yield

    def show_command(self, command: str) -> None:
        """A line as a user would type it."""
        self._console.print(f"[dim]$ {escape(command)}[/dim]", soft_wrap=True)
        self._console.file.flush()

    def run(self, *arguments: str) -> float:
        """Type `kvm-backup ARGUMENTS` and let it use the screen; the seconds it took. LabError unless it succeeds."""
        self.show_command(shlex.join(["kvm-backup", *arguments]))
        began = time.monotonic()
        status = subprocess.run(
            [KVM_BACKUP, *arguments], env=self._environment, pass_fds=[self._lock], check=False
        ).returncode
        seconds = time.monotonic() - began
        if status != 0:
            raise LabError(f"kvm-backup {shlex.join(arguments)} ended with status {status}")
        return seconds

    def ask(self, *arguments: str) -> str:
        """What `kvm-backup ARGUMENTS` prints, without showing it. Raises LabError unless it succeeds."""
        done = subprocess.run(
            [KVM_BACKUP, *arguments],
            env=self._environment,
            pass_fds=[self._lock],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise LabError(f"kvm-backup {shlex.join(arguments)} failed: {done.stderr.strip()}")
        return done.stdout

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; all columns but the first are numbers."""
        made = Table(box=None, padding=(0, 3, 0, 0), collapse_padding=True, pad_edge=False, header_style="bold")
        for index, title in enumerate(columns):
            made.add_column(title, justify="right" if index else "left", no_wrap=True)
        for row in rows:
            made.add_row(*map(escape, row))
        self._console.print(made)
        self._console.print()

    def commands(self, heading: str, lines: Sequence[str]) -> None:
        """Lines to copy: whole, however narrow the terminal is."""
        self._console.print(f"[bold]{escape(heading)}[/bold]")
        for line in lines:
            self._console.print(f"  {escape(line)}", soft_wrap=True)
        self._console.print()

    def remark(self, text: str) -> None:
        """A line at the very end."""
        self._console.print(f"[dim]{escape(text)}[/dim]")
