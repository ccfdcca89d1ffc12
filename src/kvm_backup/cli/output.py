"""How results and errors reach a person or a script."""

import json
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

from rich.console import Console
from rich.markup import escape

from kvm_backup.cli.language import _, language, told
from kvm_backup.cli.listing import Listing
from kvm_backup.domain.errors import (
    HypervisorError,
    HypervisorUnavailableError,
    KvmBackupError,
    RepositoryNotFoundError,
    SettingsError,
    StorageError,
)
from kvm_backup.domain.sizes import show_size
from kvm_backup.domain.text import printable as printable

_UNLIMITED = 1 << 20
_MAY_NEED_ROOT = (HypervisorError, HypervisorUnavailableError, RepositoryNotFoundError, SettingsError, StorageError)
_FORBIDDEN = re.compile(
    r"permission denied|not permitted|access denied|authentication|system bus connection", re.IGNORECASE
)


def survive_any_encoding() -> None:
    """Characters that the terminal's encoding lacks are replaced instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def ensure_streams() -> None:
    """A command that was started with its output closed writes to nowhere instead of failing."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - it lasts as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123


@contextmanager
def unheard() -> Iterator[None]:
    """For what must go on when nobody can hear of it any more: the reader went away, or the log's disk is full."""
    try:
        yield
    except (OSError, SystemExit):
        # Rich makes a broken pipe a SystemExit. What is still buffered must not fail again when the process ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def console() -> Console:
    """Standard output: as wide as the terminal (or COLUMNS), as wide as needed where nobody said how wide.

    Lines are never broken, so that a path or an id can be copied whole; `prose` breaks sentences between words.
    """
    return Console(soft_wrap=True, highlight=False, width=None if _has_width() else _UNLIMITED)


def prose(text: str, *, indent: str = "", hanging: str | None = None) -> str:
    """A text for people, broken between words where there is a width; later lines begin with `hanging`."""
    if not _has_width():
        return indent + text
    return _fill(text, console().width, indent, indent if hanging is None else hanging)


def _fill(text: str, width: int, indent: str = "", hanging: str = "") -> str:
    return textwrap.fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _has_width() -> bool:
    return sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(_json(value, indent=2) + "\n")
    sys.stdout.flush()


def print_json_line(value: Any) -> None:
    """One JSON object in one line, flushed, so that a reader at a pipe sees it at once."""
    sys.stdout.write(_json(value, indent=None) + "\n")
    sys.stdout.flush()


def _json(value: Any, indent: int | None) -> str:
    """JSON that is valid in the stream's encoding, and that holds no character which could steer a terminal."""
    unicode = sys.stdout.encoding.lower().replace("-", "") == "utf8"
    text = json.dumps(value, indent=indent, ensure_ascii=not unicode)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter == "\n" else json.dumps(letter)[1:-1] for letter in text)


def print_error(error: KvmBackupError) -> None:
    """The cause and the hint on standard error, in the user's language."""
    hint = told(error.hint)
    print_problem(told(error.message), with_sudo(error.message, hint) if isinstance(error, _MAY_NEED_ROOT) else hint)


def with_sudo(message: str, hint: str) -> str:
    """The hint, which begins with sudo when somebody who is not root may not do something."""
    if os.geteuid() != 0 and _FORBIDDEN.search(message):
        return f"{_('You are not root: run it with sudo.')} {hint}"
    return hint


def print_problem(message: str, hint: str) -> None:
    """A cause and a hint on standard error, control characters made visible; on a terminal the hint is broken."""
    advice = f"{_('HINT:')} {printable(hint)}"
    if sys.stderr.isatty():
        advice = _fill(advice, Console(stderr=True).width)
    sys.stderr.write(f"{_('error:')} {printable(short_digests(message))}\n{advice}\n")


def short_digests(text: str) -> str:
    """SHA-256 digests cut to their first 12 digits, which are enough to compare by eye."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", text)


def size(amount: float) -> str:
    """Bytes as `show_size` has them, in French 1,5 Gio."""
    shown = decimal(show_size(amount))
    return shown.replace("B", "o") if language() == "fr" else shown


def seconds(amount: float) -> str:
    """Such as 3.4 s."""
    return decimal(f"{amount:.1f} s")


def decimal(number: str) -> str:
    """A number with the comma of the user's language."""
    return number.replace(".", ",") if language() == "fr" else number


def cell(text: object) -> str:
    """Text from outside for a Rich table: printable, and never taken as markup."""
    return escape(printable(str(text)))


def print_fact(title: str, text: object) -> None:
    """A line of all that is known of something: a title and a value that is never broken."""
    console().print(f"{_title(title)}{cell(text)}")


def print_clause(title: str, text: str) -> None:
    """The same for a sentence, which is broken between words."""
    console().print(prose(cell(text), indent=_title(title), hanging=" " * (_title_width() + 1)))


def _title(title: str) -> str:
    return f"[bold]{title:<{_title_width()}}[/bold] "


def _title_width() -> int:
    return 14 if language() == "fr" else 12


def table(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> Listing:
    """Rows under titles; each column has a title and `left`, `right`, or `fold`: left, broken when too long."""
    return Listing(columns, rows)
