"""The lock on a VM, between real processes."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvm_backup.domain.errors import CancelledError, StorageError, VmBusyError
from kvm_backup.services.vm_lock import hold_vm

UUID = "335d0923-4f56-4442-8d71-470c31685158"

HOLDER = f"""
import subprocess, sys
from pathlib import Path
from kvm_backup.services.vm_lock import hold_vm
with hold_vm(Path(sys.argv[1]), "web", "{UUID}", wait=0.0) as lock:
    if sys.argv[2] == "with-child":
        child = subprocess.Popen(["sleep", "600"], pass_fds=[lock])
        print(child.pid, flush=True)
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path, how: str = "alone") -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lock until its stdin is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_vm_that_another_process_holds_is_busy_and_the_error_names_the_process(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        assert line_of(other) == "held"
        with (
            pytest.raises(VmBusyError, match=f"process {other.pid}") as caught,
            hold_vm(tmp_path, "web", UUID, wait=0.0),
        ):
            pass
    assert caught.value.retryable


def test_another_vm_is_free_meanwhile(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        assert line_of(other) == "held"
        with hold_vm(tmp_path, "db", UUID.replace("3", "4"), wait=0.0):
            pass


def test_who_waits_gets_the_lock_when_the_holder_ends(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        assert line_of(other) == "held"
        assert other.stdin is not None
        other.stdin.close()
        with hold_vm(tmp_path, "web", UUID, wait=30.0):
            pass


def test_a_holder_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        assert line_of(other) == "held"
        other.kill()
        other.wait()
        with hold_vm(tmp_path, "web", UUID, wait=0.0):
            pass


def test_a_child_that_inherited_the_lock_keeps_it_when_its_parent_is_killed(tmp_path: Path) -> None:
    with holder(tmp_path, "with-child") as other:
        child = int(line_of(other))
        assert line_of(other) == "held"
        other.kill()
        other.wait()
        with pytest.raises(VmBusyError), hold_vm(tmp_path, "web", UUID, wait=0.0):
            pass
        os.kill(child, signal.SIGKILL)
        with hold_vm(tmp_path, "web", UUID, wait=30.0):
            pass


def test_programs_started_under_the_lock_do_not_inherit_it_unasked(tmp_path: Path) -> None:
    with hold_vm(tmp_path, "web", UUID, wait=0.0):
        child = subprocess.Popen(["sleep", "600"])
    try:
        with hold_vm(tmp_path, "web", UUID, wait=0.0):
            pass
    finally:
        child.kill()
        child.wait()


def test_the_same_process_cannot_hold_it_twice(tmp_path: Path) -> None:
    with (
        hold_vm(tmp_path, "web", UUID, wait=0.0),
        pytest.raises(VmBusyError),
        hold_vm(tmp_path, "web", UUID, wait=0.0),
    ):
        pass


def test_a_wish_to_stop_ends_the_wait(tmp_path: Path) -> None:
    began = time.monotonic()
    with (
        hold_vm(tmp_path, "web", UUID, wait=0.0),
        pytest.raises(CancelledError),
        hold_vm(tmp_path, "web", UUID, wait=600.0, stop_requested=lambda: True),
    ):
        pass
    assert time.monotonic() - began < 60


def test_a_symbolic_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "precious"
    victim.write_text("content")
    (tmp_path / f"{UUID}.lock").symlink_to(victim)
    with pytest.raises(StorageError), hold_vm(tmp_path, "web", UUID, wait=0.0):
        pass
    assert victim.read_text() == "content"


def test_a_lock_file_that_takes_no_byte_is_an_error_with_a_hint_and_the_vm_is_free_after(tmp_path: Path) -> None:
    mine = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, mine[1]))
    try:
        with pytest.raises(StorageError) as caught, hold_vm(tmp_path, "web", UUID, wait=0.0):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, mine)
        signal.signal(signal.SIGXFSZ, before)
    assert caught.value.hint
    with hold_vm(tmp_path, "web", UUID, wait=0.0):
        pass
