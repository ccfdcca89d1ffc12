"""The results as tables on the screen and as a file."""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.figures import Figures, Phase, figures, ratio_to_ours
from bench.limits import Limits
from lab.programs import run

_MIB = 1 << 20
FOLDER = Path(__file__).parents[1] / ".cache" / "bench"


class Report:
    """Writes to standard output; plain when that is no terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())

    def say(self, text: str) -> None:
        self._console.print(escape(text))
        self._console.file.flush()

    def heading(self, text: str) -> None:
        self._console.print(f"\n[bold]{escape(text)}[/bold]")

    def phase(self, title: str, phase: Phase, data_bytes: int) -> None:
        """One table; `data_bytes` is what each tool had to deal with."""
        self.heading(title)
        table = _table("TOOL", "TIME", "FROM-TO", "ON DISK", "MiB/s", "CPU", "MB RAM", "MiB OUT", "x OURS")
        for tool, runs in phase.items():
            table.add_row(tool, *_cells(figures(runs), data_bytes), f"{ratio_to_ours(phase, tool):.2f}")
        self._console.print(table)

    def limits(self, limits: Limits, cores: int, rate: float, stored_share: float) -> None:
        """What the machine can do, and how near our full backup comes (`rate` in bytes of disk a second).

        `stored_share` is the stored part of what is read: writing must be only that fast.
        """
        self.heading("The machine's limits, and our full backup beside them")
        table = _table("LIMIT", "MiB/s", "AS DISK", "WE REACH")
        for name, own, as_disk in (
            ("reading the NBD export, thrown away", limits.read, limits.read),
            ("writing, O_DIRECT, one stream", limits.write, limits.write / stored_share),
            (
                f"zstd level 1, {cores} core{'s' if cores > 1 else ''}",
                limits.compress * cores,
                limits.compress * cores,
            ),
            ("SHA-256 of what is stored, one core", limits.digest, limits.digest / stored_share),
        ):
            table.add_row(name, f"{own / _MIB:.0f}", f"{as_disk / _MIB:.0f}", f"{rate / as_disk:.0%}")
        self._console.print(table)

    def expectations(self, checks: Sequence[tuple[str, bool]]) -> None:
        self.heading("Expected")
        for text, met in checks:
            self._console.print(f"{'[green]✓[/green]' if met else '[red]✗[/red]'} {escape(text)}")

    def write(self, results: Mapping[str, Any]) -> Path:
        """Keep all figures in a file; its path."""
        FOLDER.mkdir(parents=True, exist_ok=True)
        path = FOLDER / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
        path.write_text(json.dumps({"machine": machine(), **results}, indent=2) + "\n")
        return path


def machine() -> dict[str, Any]:
    """What the figures depend on; memory in bytes."""
    models = [
        line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "qemu": run(["qemu-img", "--version"]).stdout.splitlines()[0],
        "virtnbdbackup": run(["virtnbdbackup", "--version"]).stdout.strip(),
        "load_average": os.getloadavg(),
    }


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), collapse_padding=True, header_style="bold")
    table.add_column(first, no_wrap=True)
    for title in numbers:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _cells(figure: Figures, data_bytes: int) -> list[str]:
    return [
        f"{figure.seconds:.1f} s",
        f"{figure.fastest:.1f}-{figure.slowest:.1f}",
        f"{figure.seconds_on_disk:.1f} s",
        f"{data_bytes / figure.seconds / _MIB:.0f}",
        f"{figure.cpu_seconds:.1f} s",
        f"{figure.peak_memory / 1e6:.0f}",
        f"{figure.output_bytes / _MIB:.0f}",
    ]
