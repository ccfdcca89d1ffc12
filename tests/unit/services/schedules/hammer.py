"""One of the processes that change schedules at once: adds, edits, disables and removes its own, many times.

usage: hammer.py STATE_FOLDER NUMBER ROUNDS. Each round leaves one schedule of two.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from kvm_backup.services.schedules.commands import Changes, NewSchedule, ScheduleService
from kvm_backup.services.schedules.file import ScheduleFile


def hammer(folder: Path, number: int, rounds: int) -> None:
    """Keep `p<number>-<round>`, edited and disabled; add and remove another beside it."""
    zone = ZoneInfo("Europe/Paris")
    service = ScheduleService(ScheduleFile(folder, zone), zone, lambda: datetime.now(UTC), list, str, lambda *_: None)
    for turn in range(rounds):
        kept = service.add(NewSchedule(f"p{number}-{turn}", ["web"], "daily", "02:00", "full"))
        gone = service.add(NewSchedule(f"gone {number}-{turn}", ["web"], "daily", "02:00", "full"))
        service.edit(kept.id, Changes(vm_names=["web", f"vm{number}"], schedule_time="03:30"))
        service.remove(gone.id)
        service.disable(kept.id)


if __name__ == "__main__":
    hammer(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
