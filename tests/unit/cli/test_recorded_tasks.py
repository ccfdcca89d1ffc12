"""verify, restore and prune as runs of the history: what they leave there. libvirt and the service are not there."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kvm_backup.domain.errors import EXIT_BAD_ARGUMENTS, EXIT_DONE, EXIT_FAILED
from tests.unit.builders import VM_UUID, Shelf, flip_bit
from tests.unit.cli.conftest import COMMAND, Command

ONE = {"KVM_BACKUP_RETENTION__LAST": "1"}


def runs(command: Command, *words: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(command("run", "list", "--json", *words).output)
    return listed


def damage(shelf: Shelf, point: Any) -> None:
    path = shelf.path(point)
    flip_bit(path, path.stat().st_size // 2)


def test_a_verify_of_all_is_a_run_for_each_vm(command: Command, shelf: Shelf, tmp_path: Path) -> None:
    shelf.add(shelf.add())
    other = Shelf(shelf.root, "db", "5e6f7a8b-0000-4000-8000-000000000002")
    other.add()
    verified = command("verify", "--all")
    assert (verified.status, verified.error) == (EXIT_DONE, "")
    assert verified.output.splitlines()[-1] == "3 points, none damaged"
    found = {run["vm_name"]: run for run in runs(command)}
    assert set(found) == {"web", "db"}
    for run in found.values():
        assert (run["kind"], run["state"], run["trigger"]) == ("verify", "succeeded", "command")
        assert (run["requested_mode"], run["point"], run["bytes_read"] > 0) == (None, None, True)
    assert found["web"]["vm_uuid"] == VM_UUID
    assert 0 < found["web"]["done"] == found["web"]["total"]


def test_a_verify_that_finds_damage_is_a_failed_run_that_names_the_point(command: Command, shelf: Shelf) -> None:
    full = shelf.add()
    child = shelf.add(full)
    damage(shelf, child)
    verified = command("verify", "--json", child.id)
    assert (verified.status, verified.error) == (EXIT_FAILED, "")
    assert [json.loads(line)["event"] for line in verified.output.splitlines()] == ["verified", "verified"]
    [run] = runs(command, "--kind", "verify")
    assert (run["state"], run["error_code"], run["point"]) == ("failed", "damaged-point", child.id)
    assert run["task"] == {"kind": "verify", "folder": child.id.split("/")[0], "point": child.id, "deep": False}
    shown = command("run", "show", run["id"], COLUMNS="200").output
    assert f"damaged      {child.id}: vda.qcow2: " in shown
    assert f"asked for    {child.id}\n" in shown
    logged = [json.loads(line) for line in command("run", "logs", run["id"], "--json").output.splitlines()]
    assert [(line["event"], line["level"]) for line in logged if line["event"] == "verified"] == [
        ("verified", "info"), ("verified", "error"),
    ]  # fmt: skip


def test_a_restore_and_a_prune_are_runs_and_a_dry_run_is_none(command: Command, shelf: Shelf, tmp_path: Path) -> None:
    newest = shelf.add(shelf.add())
    command("prune", "web", "--dry-run", **ONE)
    command("verify", "nosuch")
    assert runs(command) == []
    assert command("restore", "web/latest", "--to", str(tmp_path / "to")).status == EXIT_DONE
    assert command("prune", "--all", **ONE).status == EXIT_DONE
    pruned, restored = runs(command)
    assert (pruned["kind"], pruned["state"]) == ("prune", "succeeded")
    assert pruned["detail"].startswith("points kept: 1, removed: 1, made full: 1; ")
    assert (restored["kind"], restored["state"], restored["point"]) == ("restore", "succeeded", newest.id)
    assert restored["task"]["target"] == {"way": "folder", "folder": str(tmp_path / "to"), "image_format": "qcow2"}
    steps = json.loads(command("run", "show", restored["id"], "--json").output)["steps"]
    assert [step["name"] for step in steps] == ["verify", "restore"]


def test_a_restore_that_fails_ends_as_before_and_is_a_failed_run(
    command: Command, shelf: Shelf, tmp_path: Path
) -> None:
    shelf.add()
    (tmp_path / "vda.qcow2").touch()
    failed = command("restore", "web/latest", "--to", str(tmp_path))
    assert failed.status == EXIT_FAILED
    assert failed.error.startswith(f"error: {tmp_path / 'vda.qcow2'} exists already\nHINT: ")
    [run] = runs(command)
    assert (run["state"], run["error_code"]) == ("failed", "target-exists")


def test_a_retry_does_a_run_of_each_kind_once_more(command: Command, shelf: Shelf, tmp_path: Path) -> None:
    damage(shelf, shelf.add())
    assert command("verify").status == EXIT_FAILED
    [failed] = runs(command)
    shown = command("run", "retry", failed["id"])
    assert (shown.status, "damaged" in shown.output) == (EXIT_FAILED, True)
    assert command("prune", "web", "--json").status == EXIT_DONE
    again = command("run", "retry", runs(command, "--kind", "prune")[0]["id"], "--json")
    assert (again.status, json.loads(again.output)["event"]) == (EXIT_DONE, "pruned")
    good = shelf.add()
    assert command("restore", good.id, "--to", str(tmp_path / "to")).status == EXIT_DONE
    [restored] = runs(command, "--kind", "restore")
    assert "exists already" in command("run", "retry", restored["id"]).error
    newest = runs(command)[0]
    assert (newest["trigger"], newest["attempt"], newest["task"]) == ("retry", 2, restored["task"])


def test_a_restore_in_place_is_not_retried(command: Command, shelf: Shelf) -> None:
    shelf.add()
    assert command("restore", "web/latest", "--in-place", "--yes").status == EXIT_FAILED
    [run] = runs(command)
    assert (run["state"], run["error_code"]) == ("failed", "hypervisor-unavailable")
    refused = command("run", "retry", run["id"])
    assert refused.status == EXIT_BAD_ARGUMENTS
    assert "--in-place" in refused.error


def test_what_cannot_be_recorded_is_done_all_the_same(command: Command, shelf: Shelf) -> None:
    shelf.add(shelf.add())
    (shelf.root.parent / "kvm-backup.db").write_text("this is no database")
    verified = command("verify", "--json")
    assert verified.status == EXIT_DONE
    assert len(verified.output.splitlines()) == 2
    assert verified.error.startswith("note: web: this run is not in the history: ")
    pruned = command("prune", "web", "--json", **ONE)
    assert (pruned.status, json.loads(pruned.output)["event"]) == (EXIT_DONE, "pruned")
    assert "this run is not in the history" in pruned.error


@pytest.fixture
def stuck(command: Command, shelf: Shelf, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A verify that waits for qemu-img, which does not end."""
    shelf.add()
    programs, called = tmp_path / "programs", tmp_path / "called"
    programs.mkdir()
    program = programs / "qemu-img"
    program.write_text(f"#!/bin/sh\ntouch {called}\nexec sleep 600\n")
    program.chmod(0o755)
    environment = command.environment | {"PATH": f"{programs}:{command.environment['PATH']}"}
    with subprocess.Popen([COMMAND, "verify"], env=environment, start_new_session=True) as process:
        while not called.exists():
            assert process.poll() is None
            time.sleep(0.05)
        yield process
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_a_command_that_is_killed_leaves_an_interrupted_run_that_says_what_to_do(
    command: Command, stuck: "subprocess.Popen[bytes]"
) -> None:
    assert [run["state"] for run in runs(command)] == ["running"]
    stuck.kill()
    stuck.wait()
    [run] = runs(command)
    assert (run["state"], run["error_code"], run["kind"]) == ("interrupted", "interrupted", "verify")
    assert "run retry" in run["hint"]
    assert command("run", "retry", run["id"]).status == EXIT_DONE


def test_a_verify_is_cancelled_from_outside_also_while_a_program_of_it_runs(
    command: Command, stuck: "subprocess.Popen[bytes]"
) -> None:
    [run] = runs(command)
    assert command("run", "cancel", run["id"]).output == f"run {run['id']} of web: asked to end\n"
    assert stuck.wait(60) == EXIT_FAILED
    assert [(run["state"], run["error_code"]) for run in runs(command)] == [("cancelled", "cancelled")]
