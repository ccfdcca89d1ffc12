"""`make bench-pages`: how fast the dashboard answers on a large fleet, and what many open pages cost the server.

The server is the product's own (`kvm-backup serve`) on a folder that `bench.fleet` filled. Times are taken by the one
who asks, on the same host, one request after the other over one connection: what a browser would wait. CPU is what
the server used for each, which tells more where the host does something else at the same time.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from bench import fleet
from bench.live_pages import Cost, watch
from bench.page_server import BASE, PageServer, libvirt_memory, percentile

LIMIT_MS = 100.0
_QUIET = timedelta(minutes=30)
"""No schedule is due while it measures."""
_MIB = 1 << 20


def main(arguments: Sequence[str]) -> int:
    """Parse and measure; the exit status is 1 when a page was too slow or failed."""
    parser = argparse.ArgumentParser(prog="make bench-pages", description=__doc__)
    parser.add_argument(
        "state_dir", type=Path, nargs="?", default=BASE / "fleet", help="filled by bench.fleet; else that is done now"
    )
    parser.add_argument("--requests", type=int, default=50, metavar="N", help="of each page (default: 50)")
    parser.add_argument("--pages", type=int, default=50, metavar="N", help="open at once (default: 50)")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="that they stay open (default: 30)")
    parser.add_argument("--every", type=float, default=10.0, metavar="S", help="a run begins or ends (default: 10)")
    parser.add_argument("--no-live", action="store_true", help="leave out the pages that stay open")
    parser.add_argument("--only", metavar="TEXT", default="", help="only addresses with this in their name")
    chosen = parser.parse_args(arguments)
    state_dir: Path = chosen.state_dir.absolute()
    if not (state_dir / fleet.DOMAINS).exists() and (status := fleet.main([str(state_dir)])):
        return status
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(f"load average {os.getloadavg()[0]:.1f}; {state_dir}")
    page_server = PageServer(state_dir)
    fleet.put_off(page_server.application, _QUIET)
    with page_server as server, server.signed_in() as client:
        slow = _measure_pages(console, server, client, chosen.requests, chosen.only)
        if not (chosen.only or chosen.no_live):
            _measure_live(console, server, chosen.pages, chosen.seconds, chosen.every)
    return int(bool(slow))


def _measure_pages(console: Console, server: PageServer, client: httpx.Client, requests: int, only: str) -> list[str]:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("PAGE", "p50 ms", "p95 ms", "worst", "CPU ms", "KiB"):
        table.add_column(title, justify="left" if title == "PAGE" else "right", no_wrap=True)
    slow = []
    for name, path in server.addresses():
        if only not in name:
            continue
        used = server.processor_seconds()
        times, size, status = _asked(client, path, requests)
        used = (server.processor_seconds() - used) * 1000 / (len(times) + 1)
        p95 = percentile(times, 0.95)
        bad = status >= 400 or (p95 > LIMIT_MS and name != "metrics")
        if bad:
            slow.append(name)
        shown = f"[red]{p95:.1f}[/red]" if bad else f"{p95:.1f}"
        worst = f"{times[-1]:.1f}" if status < 400 else f"[red]{status}[/red]"
        table.add_row(name, f"{percentile(times, 0.5):.1f}", shown, worst, f"{used:.1f}", f"{size / 1024:.0f}")
    console.print(table)
    return slow


def _asked(client: httpx.Client, path: str, requests: int) -> tuple[list[float], int, int]:
    """Milliseconds, sorted; bytes of the last answer, and its status."""
    times = []
    for number in range(requests + 1):
        began = time.perf_counter()
        answer = client.get(path)
        if number or requests == 0:  # the first one fills caches of templates and statements
            times.append((time.perf_counter() - began) * 1000)
        if answer.status_code >= 400:
            return sorted(times) or [0.0], len(answer.content), answer.status_code
    return sorted(times), len(answer.content), answer.status_code


def _measure_live(console: Console, server: PageServer, pages: int, seconds: float, every: float) -> None:
    libvirt = libvirt_memory(server.uri)
    console.print(
        f"\nmemory of the server: {server.memory() / _MIB:.0f} MiB, of which {libvirt / _MIB:.0f} MiB are the VMs of"
        " libvirt's test driver; on a real host they are in libvirtd"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("OPEN PAGES", "% OF A CORE", "MiB", "WITHOUT LIBVIRT", "EVENTS", "FETCHED ANEW", "p95 ms"):
        table.add_column(title, justify="left" if title == "OPEN PAGES" else "right", no_wrap=True)
    for name, count, changes, fetching in (
        ("none", 0, False, False),
        (f"{pages}, nothing happens", pages, False, False),
        (f"{pages}, two runs go on", pages, True, False),
        (f"{pages}, and they fetch what changed", pages, True, True),
    ):
        cost: Cost = watch(server, count, seconds, every=every if changes else 0.0, fetching=fetching)
        table.add_row(
            name,
            f"{cost.cores * 100:.1f}",
            f"{cost.memory / _MIB:.0f}",
            f"{(cost.memory - libvirt) / _MIB:.0f}",
            str(cost.events),
            str(len(cost.fetched)),
            f"{percentile(sorted(cost.fetched), 0.95):.1f}" if cost.fetched else "",
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
