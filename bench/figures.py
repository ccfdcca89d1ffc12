"""Medians, spreads, and what was expected of them: pure functions over the results."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.contenders import OURS, PEER, PEER_RESTORE, QEMU, Result

MEMORY_LIMIT = 300 * 1000 * 1000
"""Bytes that we may hold resident, whatever the size of the disk."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The median of several runs of one tool, with the smallest and largest time. Seconds and bytes."""

    seconds: float
    fastest: float
    slowest: float
    seconds_on_disk: float
    """Until the data had reached the disk: flushing the host's cache included."""
    cpu_seconds: float
    source_cpu_seconds: float
    peak_memory: int
    output_bytes: int


Phase = Mapping[str, Sequence[Result]]
"""The runs of each tool by its name, in the order in which they were made."""


def figures(runs: Sequence[Result]) -> Figures:
    """Medians; the memory is the largest of all runs."""
    seconds = [run.cost.seconds for run in runs]
    return Figures(
        seconds=statistics.median(seconds),
        fastest=min(seconds),
        slowest=max(seconds),
        seconds_on_disk=statistics.median(run.cost.seconds + run.cost.flush_seconds for run in runs),
        cpu_seconds=statistics.median(run.cost.cpu_seconds for run in runs),
        source_cpu_seconds=statistics.median(run.cost.source_cpu_seconds for run in runs),
        peak_memory=max(run.cost.peak_memory for run in runs),
        output_bytes=int(statistics.median(run.output_bytes for run in runs)),
    )


def ratio_to_ours(phase: Phase, tool: str) -> float:
    """How many times our time a tool took: the median over pairs of runs that were made one after the other."""
    pairs = zip(phase[tool], phase[OURS], strict=True)
    return statistics.median(theirs.cost.seconds / ours.cost.seconds for theirs, ours in pairs)


def expectations(full: Phase, incremental: Phase, restore: Phase) -> list[tuple[str, bool]]:
    """What this project promises about its speed, and whether this run of the benchmark bears it out."""
    checks = [
        (
            f"full: {tool} takes {ratio_to_ours(full, tool):.2f} times our time (at least 2)",
            ratio_to_ours(full, tool) >= 2,
        )
        for tool in (PEER, QEMU)
    ]
    size = figures(full[PEER]).output_bytes / figures(full[OURS]).output_bytes
    checks.append((f"full: {PEER} stores {size:.2f} times our bytes (more than 1)", size > 1))
    for name, phase, tool in (
        ("incremental", incremental, PEER),
        ("restore", restore, PEER_RESTORE),
        ("restore", restore, QEMU),
    ):
        ratio = ratio_to_ours(phase, tool)
        checks.append((f"{name}: {tool} takes {ratio:.2f} times our time (more than 1)", ratio > 1))
    memory = max(figures(phase[OURS]).peak_memory for phase in (full, incremental, restore))
    checks.append(
        (f"memory: ours peaks at {memory / 1e6:.0f} MB (under {MEMORY_LIMIT / 1e6:.0f})", memory < MEMORY_LIMIT)
    )
    return checks


def as_json(phase: Phase) -> dict[str, Any]:
    """Medians and all runs of each tool."""
    return {
        tool: {
            **asdict(figures(runs)),
            "times_ours": ratio_to_ours(phase, tool),
            "runs": [asdict(run.cost) | {"output_bytes": run.output_bytes} for run in runs],
        }
        for tool, runs in phase.items()
    }
