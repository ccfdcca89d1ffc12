"""When a schedule runs, as people say it: phrases, which pages and commands tell in their reader's language."""

from kvm_backup.domain.errors import InvalidScheduleError
from kvm_backup.domain.phrase import Phrase, phrase
from kvm_backup.domain.schedule import Schedule
from kvm_backup.domain.timing import ScheduleType, Timing

WEEKDAYS = (
    phrase("Monday"),
    phrase("Tuesday"),
    phrase("Wednesday"),
    phrase("Thursday"),
    phrase("Friday"),
    phrase("Saturday"),
    phrase("Sunday"),
)
"""From Monday on."""
_SHORTEST_MONTH = 28
"""Days of a February."""
_SHOWN = 100
"""Characters of a type or time that cannot be used."""


def when_in_words(schedule: Schedule) -> Phrase:
    """Such as `every day at 02:00`."""
    try:
        return timing_in_words(schedule.timing)
    except InvalidScheduleError:
        kind, time = (_short(text) for text in (schedule.schedule_type, schedule.schedule_time))
        return phrase("{type} {time}: cannot be used", type=kind, time=time)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def timing_in_words(timing: Timing) -> Phrase:
    """The same of a type and time that can be used."""
    clock = phrase("{hour}:{minute}", hour=f"{timing.hour:02}", minute=f"{timing.minute:02}")
    match timing.type:
        case ScheduleType.HOURLY:
            return phrase("every hour at minute {minute}", minute=f"{timing.minute:02}")
        case ScheduleType.DAILY:
            return phrase("every day at {time}", time=clock)
        case ScheduleType.WEEKLY:
            return phrase("every {weekday} at {time}", weekday=WEEKDAYS[timing.weekday], time=clock)
        case ScheduleType.MONTHLY:
            if timing.day > _SHORTEST_MONTH:
                return phrase(
                    "every month on day {day} at {time} (on the last day in shorter months)",
                    day=timing.day,
                    time=clock,
                )
            return phrase("every month on day {day} at {time}", day=timing.day, time=clock)
        case ScheduleType.CRON:
            return phrase("cron {expression}", expression=timing.expression)
