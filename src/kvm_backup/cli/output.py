"""How results and errors reach a person or a script."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kvm_backup.domain.errors import KvmBackupError


def console() -> Console:
    """Standard output; plain and as wide as needed when it is no terminal."""
    return Console(soft_wrap=not sys.stdout.isatty(), highlight=False)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_json_line(value: Any) -> None:
    """One JSON object in one line, flushed, so that a reader at a pipe sees it at once."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_error(error: KvmBackupError) -> None:
    """The cause and the hint on standard error, control characters made visible."""
    sys.stderr.write(f"error: {printable(error.message)}\nHINT: {printable(error.hint)}\n")


def printable(text: str) -> str:
    """Text from outside with control characters escaped, so that a VM's name cannot steer a terminal."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def cell(text: object) -> str:
    """Text from outside for a Rich table: printable, and never taken as markup."""
    return escape(printable(str(text)))


def table(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> Table:
    """A table without frame; each column has a title and `left` or `right`."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in columns:
        made.add_column(title, justify="right" if justify == "right" else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made
