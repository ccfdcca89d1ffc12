"""Events of a run on the screen: a progress bar, lines of JSON, or quiet."""

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from kvm_backup.cli.language import _, told
from kvm_backup.cli.output import cell, console, print_json_line, printable, size, unheard
from kvm_backup.domain.phrase import phrase
from kvm_backup.services import events

_WORDS = {
    events.Step.PREPARE: phrase("preparing"),
    events.Step.BEGIN: phrase("starting the backup job"),
    events.Step.COPY: phrase("copying"),
    events.Step.PUBLISH: phrase("publishing"),
    events.Step.ADVANCE: phrase("finishing"),
    events.Step.PRUNE: phrase("consolidating"),
    events.Step.VERIFY: phrase("checking"),
    events.Step.RESTORE: phrase("restoring"),
    events.Step.ENCRYPT: phrase("encrypting"),
    events.Step.SHIP: phrase("shipping"),
    events.Step.FETCH: phrase("fetching"),
}

_open: list["EventView"] = []
"""The views that are in use; whoever asks something knows of none."""


@contextmanager
def quiet_screen() -> Iterator[None]:
    """While something is asked: no view has a bar on the screen, which would be drawn over the question."""
    with ExitStack() as stack:
        for view in _open:
            stack.enter_context(view.aside())
        yield


class EventView:
    """A listener for events of one run, or of several that go on in threads; use it as a context manager."""

    def __init__(self, *, json_lines: bool) -> None:
        self._json_lines = json_lines
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._turn = threading.RLock()

    def __enter__(self) -> Self:
        _open.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        _open.remove(self)
        self._clear()

    def print(self, text: str) -> None:
        """A line of markup on standard output, above the bars while there are some."""
        with self._turn, unheard():
            (self._progress.console if self._progress else console()).print(text)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """While something else is printed: the bars are off the screen, and no thread writes between its lines."""
        with self._turn:
            if self._progress:
                self._progress.stop()
            yield
            if self._progress:
                self._progress.start()

    def _clear(self) -> None:
        """Take the bars off the screen, so that what is printed next begins on a clean line."""
        if self._progress:
            self._progress.stop()
        self._progress = None
        self._tasks.clear()

    def __call__(self, event: events.Event) -> None:
        with self._turn, unheard():
            self._render(event)

    def _render(self, event: events.Event) -> None:
        if self._json_lines:
            print_json_line(event.as_json())
        elif isinstance(event, events.Notice):
            self._say(_("{name}: {detail}").format(name=event.vm, detail=told(event.message)))
        elif sys.stdout.isatty():
            self._show(event)

    def _show(self, event: events.Event) -> None:
        # The bar starts with the first step, so that questions before it are asked on a quiet screen.
        if self._progress is None:
            self._progress = progress_bar()
            self._progress.start()
        progress = self._progress
        if isinstance(event, events.StepStarted):
            self._end(event.vm)
            self._tasks[event.vm] = progress.add_task(f"{cell(event.vm)}: {told(_WORDS[event.step])}", total=None)
        elif isinstance(event, events.Progress) and event.vm in self._tasks:
            progress.update(self._tasks[event.vm], completed=event.done, total=max(event.total, event.done, 1))
        elif isinstance(event, events.Finished):
            self._end(event.vm)
            if not self._tasks:
                self._clear()

    def _end(self, vm: str) -> None:
        task = self._tasks.pop(vm, None)
        if self._progress and task is not None:
            self._progress.remove_task(task)

    def _say(self, message: str) -> None:
        if self._progress:
            self._progress.console.print(f"[yellow]{_('note:')}[/yellow] {cell(message)}")
        else:
            sys.stderr.write(f"{_('note:')} {printable(message)}\n")


class _Amount(ProgressColumn):
    """How much of how much, in the units of all other output; nothing while that is not known."""

    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{size(task.completed)}/{size(task.total)}")


class _Rate(ProgressColumn):
    """How much in a second."""

    def render(self, task: Task) -> Text:
        speed = None if task.total is None else task.speed
        return Text("" if speed is None else f"{size(speed)}/s")


def progress_bar(width: int | None = None) -> Progress:
    """One line for each VM: only the bar gives way where it is narrow, then the end of the VM's name."""
    whole = Column(no_wrap=True, overflow="ellipsis")
    return Progress(
        TextColumn("{task.description}", table_column=whole.copy()),
        BarColumn(bar_width=None),
        TaskProgressColumn(table_column=whole.copy()),
        _Amount(whole.copy()),
        _Rate(whole.copy()),
        TimeRemainingColumn(table_column=whole.copy()),
        console=Console(width=width),
        transient=True,
    )
