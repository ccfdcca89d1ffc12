"""`python -m bench.fleet`: fills a state folder with a large fleet, so that pages can be measured on it.

VMs (for libvirt's test driver), schedules, restore points as manifests, finished runs in bulk; then the service's own
survey looks at all that, as it would after a start.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import update

from bench.fleet_host import HOST, Fleet, make_fleet, write_domains, write_points, write_schedules
from bench.fleet_runs import bulk_insert_runs, resolved_alerts, space_samples
from kvm_backup.bootstrap import Application
from kvm_backup.database.tables import HOSTS
from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.schedule import Schedule
from kvm_backup.runtime.observer import Observer

DOMAINS = "domains.xml"
HISTORY = timedelta(days=400)
"""Longer ago than any run that is made."""
_REMOTES = (
    ("nas", "ssh://backup@127.0.0.1:9/srv/kvm-backup/bench"),
    ("offsite", "ssh://backup@127.0.0.1:9/srv/offsite"),
)
"""Nobody listens there, so that what waits goes on waiting."""


def main(arguments: Sequence[str]) -> int:
    """Parse and fill; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("state_dir", type=Path, help="a folder that is empty or not there yet")
    parser.add_argument("--vms", type=int, default=10_000, metavar="N")
    parser.add_argument("--schedules", type=int, default=1_000, metavar="N")
    parser.add_argument("--runs", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--points", type=int, default=3, metavar="N", help="restore points of each VM (default: 3)")
    parser.add_argument("--database", metavar="URL", help="of an empty PostgreSQL database, instead of SQLite")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    chosen = parser.parse_args(arguments)
    state_dir: Path = chosen.state_dir.absolute()
    if state_dir.exists() and any(state_dir.iterdir()):
        parser.error(f"{state_dir} is not empty")
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        os.environ["KVM_BACKUP_CONFIG"] = str(write_settings(state_dir, chosen.database, _REMOTES))
        fill(state_dir, make_fleet(chosen.vms, chosen.schedules, chosen.seed), chosen.runs, chosen.points)
    except KvmBackupError as error:
        print(f"the fleet cannot be made: {error.message}. {error.hint}", file=sys.stderr)
        return 1
    return 0


def write_settings(state_dir: Path, database: str | None, remotes: Sequence[tuple[str, str]]) -> Path:
    """The settings under which such a folder is served (KVM_BACKUP_CONFIG).

    `remotes` are names and addresses of copies of its repository.
    """
    path = state_dir / "kvm-backup.toml"
    lines = [
        f"state_dir = {json.dumps(str(state_dir))}",
        'timezone = "Europe/Paris"',
        f'host = "{HOST}"',
        # A folder that is served days later would begin with thousands of runs that were missed.
        "[scheduler]\ncatch_up = false",
        f"[libvirt]\nuri = {json.dumps(f'test://{state_dir / DOMAINS}')}",
        *(
            f"[[repository]]\nname = {json.dumps(name)}\nurl = {json.dumps(url)}\nof = 'default'"
            for name, url in remotes
        ),
        *([f"[database]\nurl = {json.dumps(database)}"] if database else []),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def fill(state_dir: Path, fleet: Fleet, runs: int, points: int, waits_of: int = 50) -> None:
    """Make all of it in a folder whose settings KVM_BACKUP_CONFIG names. Of one VM in `waits_of` a point waits.

    Raises KvmBackupError.
    """
    now = datetime.now(UTC)
    clock = _Said()
    write_domains(fleet, state_dir / DOMAINS)
    application = Application.from_environment()
    write_schedules(fleet, application.schedule_file, application.zone, now)
    clock(f"{len(fleet.vms)} VMs, {len(fleet.schedules)} schedules")
    # As if the service had looked for the first time long ago: since then schedules promise points.
    application.survey.begin(now - HISTORY)
    application.survey.look(now - HISTORY)
    clock("the inventory before the first run")
    made = bulk_insert_runs(application.database, fleet, runs, now)
    clock(f"{made} runs")
    with application.database.transaction(write=True) as connection:
        connection.execute(update(HOSTS).values(counted=None))
    application.statistics.backfill(now)
    clock("their sums by day")
    resolved_alerts(application.database, fleet, now)
    mirrors = [application.shipping.mirror(name) for name in application.settings.remotes()]
    count, stored = write_points(fleet, application.repository(), mirrors, points, now, waits_of)
    space_samples(application.database, now, stored, state_dir)
    clock(f"{count} restore points (manifests without images), and the mirrors of {len(mirrors)} remotes")
    application = Application.from_environment()
    Observer(application.survey, application.alerts, print).step()
    application.shipping.facts.look_through()
    clock("the service's look at all of it")


def put_off(application: Application, time: timedelta) -> None:
    """Disable what is due within that time: a night's backups beside it are not what pages cost.

    Raises KvmBackupError.
    """
    now = datetime.now(UTC)

    def without_soon(schedules: Sequence[Schedule]) -> list[Schedule]:
        planned = [schedule.planned_after(now, application.zone) for schedule in schedules]
        soon = {one.id for one in planned if one.next_run is not None and one.next_run <= now + time}
        return [replace(one, enabled=False, next_run=None) if one.id in soon else one for one in planned]

    application.schedule_file.update(without_soon)


class _Said:
    """Says what was done and how long it took."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, what: str) -> None:
        now = time.monotonic()
        print(f"{now - self._last:7.1f} s  {what}", flush=True)
        self._last = now


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
