"""Programs whose output is followed as it comes."""

import time
from pathlib import Path

import pytest

from kvm_backup import process
from kvm_backup.domain.errors import ToolMissingError

BOTH = "printf one; printf cause >&2; sleep 0.3; printf two; exit 7"


def test_output_is_handed_over_while_the_program_goes_on_and_its_end_is_reported() -> None:
    pieces: list[str] = []
    done = process.follow(["sh", "-c", BOTH], heard=pieces.append)
    assert pieces == ["one", "two"]
    assert done == process.Completed(7, "onetwo", "cause")


def test_of_endless_output_the_end_is_kept() -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo 0123456789; i=$((i+1)); done; echo last"
    heard: list[str] = []
    done = process.follow(["sh", "-c", script], heard=heard.append)
    assert len("".join(heard)) == 20000 * 11 + 5
    assert len(done.stdout) == 64 << 10
    assert done.stdout.endswith("last\n")


def test_a_program_that_is_not_wanted_any_more_is_ended_even_when_it_ignores_that() -> None:
    class EnoughError(Exception):
        pass

    def enough() -> None:
        if pieces:
            raise EnoughError

    pieces: list[str] = []
    with pytest.raises(EnoughError):
        process.follow(["sh", "-c", "trap '' TERM; echo $$; exec sleep 1000"], heard=pieces.append, meanwhile=enough)
    assert process.run(["ps", "-p", pieces[0].strip()], check=False).status != 0


def test_a_missing_program_is_named_with_its_package() -> None:
    with pytest.raises(ToolMissingError, match="no-such-program"):
        process.follow(["no-such-program"], heard=lambda _: None)


def test_what_a_program_leaves_behind_with_its_output_open_is_not_waited_for() -> None:
    script = "sleep 600 & echo $!; exit 30"
    done = process.follow(["sh", "-c", script], heard=lambda _text: None, own_session=True)
    assert done.status == 30
    left = Path(f"/proc/{int(done.stdout)}/cmdline")
    deadline = time.monotonic() + 20
    while left.exists() and left.read_bytes():
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.02)
