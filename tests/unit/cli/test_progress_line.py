"""The line of a run that goes on, as a terminal of 80 columns shows it."""

import pytest
from rich.progress import Progress

from kvm_backup.cli.progress import progress_bar


def lines(progress: Progress) -> list[str]:
    with progress.console.capture() as captured:
        progress.console.print(progress.get_renderable())
    return captured.get().splitlines()


@pytest.mark.parametrize("name", ["web", "production-web-01", "a-name-that-is-much-longer-than-any-terminal-is-" * 3])
def test_a_run_that_copies_takes_one_line_of_80_columns_in_binary_units(name: str) -> None:
    now = [0.0]
    progress = progress_bar(80)
    progress.get_time = lambda: now[0]
    task = progress.add_task(f"{name}: copying", total=None)
    for second in range(1, 4):
        now[0] = float(second)
        progress.update(task, completed=second * 101 * 1024**2, total=1023 * 1024**2)
    [line] = lines(progress)
    assert len(line) <= 80
    if len(name) < 20:
        assert line.startswith(f"{name}: copying ")
        assert " 30% 303.0 MiB/1023.0 MiB 101.0 MiB/s " in line


def test_a_step_of_unknown_length_shows_no_amounts() -> None:
    progress = progress_bar(80)
    progress.add_task("production-web-01: starting the backup job", total=None)
    [line] = lines(progress)
    assert line.startswith("production-web-01: starting the backup job ")
    assert not {"?", "%", "/"} & set(line.removeprefix("production-web-01"))
