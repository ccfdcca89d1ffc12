"""Lines of the log as a page shows them."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

_LEADING = frozenset({"time", "level", "event", "run", "vm", "host"})
_TONES = {"warning": "warning", "error": "problem", "critical": "problem"}


@dataclass(frozen=True, slots=True)
class LogLine:
    """`moment` is None where the line's time cannot be read; `tone` is empty for what is usual."""

    moment: datetime | None
    tone: str
    event: str
    facts: str


def log_line(entry: Mapping[str, Any]) -> LogLine:
    """The leading keys by their place, the others by name; what is empty is left out."""
    moment = None
    with suppress(ValueError):
        moment = datetime.fromisoformat(str(entry.get("time")))
    named = ((key, value) for key, value in entry.items() if key not in _LEADING and value not in (None, [], {}))
    facts = "  ".join(f"{key}={_shown(value)}" for key, value in named)
    aware = moment if moment is not None and moment.tzinfo is not None else None
    return LogLine(aware, _TONES.get(str(entry.get("level")), ""), str(entry.get("event") or ""), facts)


def _shown(value: Any) -> Any:
    return f"{value:.2f}" if isinstance(value, float) else value
