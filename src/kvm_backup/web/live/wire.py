"""Server-sent events as bytes. Source of the format: the HTML standard, section 9.2."""

import re

KEEP_ALIVE = b": still here\n\n"
RETRY = b"retry: 2000\n\n"
"""How many milliseconds a browser waits before it connects again."""


def event(name: str, data: str, event_id: str = "") -> bytes:
    """One event. `name` and `event_id` are our own words; `data` may be any text. Without an id the browser goes on
    to name the one before when it connects again."""
    lines = "".join(f"data: {line}\n" for line in (data.splitlines() or [""]))
    numbered = f"id: {event_id}\n" if event_id else ""
    return f"{numbered}event: {name}\n{lines}\n".encode(errors="replace")


def run_event(run_id: str) -> str:
    """The name of the event that tells how a run comes on; other characters would end it in the stream or in htmx."""
    return f"run-{re.sub(r'[^A-Za-z0-9-]', '_', run_id)}"
