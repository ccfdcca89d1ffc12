"""Server-sent events as bytes. Source of the format: the HTML standard, section 9.2."""

import re

KEEP_ALIVE = b": still here\n\n"
RETRY = b"retry: 2000\n\n"
"""How many milliseconds a browser waits before it connects again."""


def event(name: str, data: str, event_id: str) -> bytes:
    """One event. `name` and `event_id` are our own words; `data` may be any text."""
    lines = "".join(f"data: {line}\n" for line in (data.splitlines() or [""]))
    return f"id: {event_id}\nevent: {name}\n{lines}\n".encode(errors="replace")


def run_event(run_id: str) -> str:
    """The name of the event that tells how a run comes on; other characters would end it in the stream or in htmx."""
    return f"run-{re.sub(r'[^A-Za-z0-9-]', '_', run_id)}"
