"""What doctor finds: one thing that was looked at, and how it is."""

from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `hint` says what to do unless it is ok."""

    name: str
    health: Health
    detail: str
    hint: str | None = None
