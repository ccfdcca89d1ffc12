"""Scripts of users: started without a shell, told what happens, and never waited for without end."""

import time
from pathlib import Path

import pytest

from kvm_backup.domain.errors import CancelledError, HookError
from kvm_backup.services.hooks import Happening, HookEvent, run_after, run_before

TOLD = Happening(HookEvent.BEFORE, vm="web $(reboot)", run="r1", mode="full", repository="default", schedule="nu\0it")


def script(folder: Path, body: str) -> tuple[str, ...]:
    path = folder / "a script"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return (str(path),)


def before(argv: tuple[str, ...], *, timeout: float = 10.0, stop: bool = False) -> None:
    run_before(argv, TOLD, timeout=timeout, stop_requested=lambda: stop)


def test_it_is_told_what_happens_and_nothing_is_read_by_a_shell(tmp_path: Path) -> None:
    told = tmp_path / "told"
    argv = script(
        tmp_path, f'printf "%s|%s|%s|%s" "$1" "$KVM_BACKUP_HOOK_VM" "$KVM_BACKUP_HOOK_SCHEDULE" "$HOME" > {told}'
    )
    before((*argv, "two words; $(id)"))
    assert told.read_text().startswith("two words; $(id)|web $(reboot)|nuit|/")


def test_what_it_said_last_is_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(HookError) as raised:
        before(script(tmp_path, "echo first; echo the disk is away >&2; exit 7"))
    assert raised.value.message.endswith("ended with 7 and said: the disk is away")
    assert "Nothing was begun" in raised.value.hint


@pytest.mark.parametrize("argv", [("/nonexistent/script",), ("/etc",), ("/etc/hostname",)])
def test_what_cannot_be_started_is_an_error_of_the_script(argv: tuple[str, ...]) -> None:
    with pytest.raises(HookError) as raised:
        before(argv)
    assert f"'{argv[0]}' cannot be started: " in raised.value.message
    assert "begins with #!" in raised.value.hint


def test_one_that_takes_too_long_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    argv = script(tmp_path, f"(sleep 2; touch {alive}) & sleep 60")
    began = time.monotonic()
    with pytest.raises(HookError, match="did not end within 1 s"):
        before(argv, timeout=1.0)
    assert time.monotonic() - began < 30
    time.sleep(1.5)
    assert not alive.exists()


def test_a_child_that_keeps_the_output_open_is_not_waited_for(tmp_path: Path) -> None:
    began = time.monotonic()
    before(script(tmp_path, "sleep 60 & exit 0"), timeout=50.0)
    assert time.monotonic() - began < 30


def test_output_without_end_fills_no_memory(tmp_path: Path) -> None:
    with pytest.raises(HookError, match="said: y"):
        before(script(tmp_path, "yes | head -c 20000000; exit 1"))


def test_output_fills_no_disk(tmp_path: Path) -> None:
    # The limit is one for files: who writes more than 8 blocks into one is killed.
    before(script(tmp_path, "ulimit -f 8\nexec head -c 10000000 /dev/zero"))


def test_what_a_script_leaves_running_may_go_on_talking(tmp_path: Path) -> None:
    end = tmp_path / "end"
    before(script(tmp_path, f"(sleep 1; echo still here; echo and again; touch {end}) & exit 0"))
    deadline = time.monotonic() + 30
    while not end.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_that_is_cancelled_ends_its_script(tmp_path: Path) -> None:
    with pytest.raises(CancelledError):
        before(script(tmp_path, "sleep 60"), stop=True)


def test_one_after_the_run_is_told_as_a_notice(tmp_path: Path) -> None:
    notice = run_after(script(tmp_path, "exit 3"), TOLD, timeout=10.0, stop_requested=lambda: False)
    assert notice is not None
    assert "after the run failed" in notice
    assert run_after(script(tmp_path, "exit 0"), TOLD, timeout=10.0, stop_requested=lambda: False) is None
