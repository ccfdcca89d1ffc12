"""Runs as front ends show them."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from kvm_backup.domain.phrase import Phrase, phrase
from kvm_backup.domain.run import Run
from kvm_backup.domain.task import AsNewVm, RestoreTask, ToFolder, task_as_json


def run_summary(run: Run) -> dict[str, Any]:
    """A run as `run list --json` prints it; times in ISO 8601, durations in seconds, rates in bytes a second."""
    shown = {key: _plain(value) for key, value in asdict(run).items() if key != "steps"}
    shown["task"] = task_as_json(run.task) if run.task else None
    seconds = (run.ended - run.started).total_seconds() if run.ended and run.started else None
    busy = seconds if run.attempt == 1 else _busy_seconds(run)
    return shown | {"seconds": seconds, "rate": run.bytes_read / busy if busy and run.bytes_read else None}


def run_details(run: Run) -> dict[str, Any]:
    """A run as `run show --json` prints it: with its steps."""
    steps = [
        {
            "name": step.name,
            "started": _plain(step.started),
            "ended": _plain(step.ended),
            "seconds": (step.ended - step.started).total_seconds() if step.ended else None,
        }
        for step in run.steps
    ]
    return run_summary(run) | {"steps": steps}


def restore_words(task: RestoreTask) -> Phrase:
    """What is restored, and where to."""
    match task.target:
        case AsNewVm(name=name, start=True):
            return phrase("{point} as VM {name}, started", point=task.point, name=name)
        case AsNewVm(name=name):
            return phrase("{point} as VM {name}", point=task.point, name=name)
        case ToFolder(folder=folder, image_format=image_format):
            return phrase("{point} to {folder}, as {format}", point=task.point, folder=folder, format=image_format)
    return phrase("{point} in place", point=task.point)


def _busy_seconds(run: Run) -> float | None:
    """How long its last attempt took; None for a run that came without its steps."""
    began = ended = run.steps[-1].ended if run.steps else None
    for step in reversed(run.steps):
        if step.ended != began:
            break  # it waited between the two
        began = step.started
    return (ended - began).total_seconds() if began and ended else None


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
