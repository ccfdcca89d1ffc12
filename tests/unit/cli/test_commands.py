"""Every command as its user types it: exit codes, one clear error with a hint, JSON, nothing raw on the screen."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kvm_backup.domain.errors import EXIT_BAD_ARGUMENTS, EXIT_DONE, EXIT_FAILED, EXIT_NOT_FOUND, EXIT_SOME_FAILED
from kvm_backup.runtime.heartbeat import Heartbeat, only_service, write_heartbeat
from tests.unit.builders import Shelf, flip_bit
from tests.unit.cli.conftest import COMMAND, Command, Ended

POINT = "web--1a2b3c4d/20261122T020000Z"
NASTY = "\x1b[31m[red]x[/red]\x07\u202e\x9b2J\x7f"


def one_clear_error(ended: Ended, status: int) -> str:
    """The cause, when the command printed exactly one cause and one hint, and ended with `status`."""
    assert ended.status == status, ended
    assert re.fullmatch(r"error: [^\n]+\nHINT: [^\n]+\n", ended.error), ended.error
    assert "error: unexpected" not in ended.error
    return ended.error


def test_help_and_version_are_done(command: Command) -> None:
    assert command("--help").status == EXIT_DONE
    assert re.fullmatch(r"kvm-backup \d+\.\d+\.\d+\n", command.started("--version").output)


@pytest.mark.parametrize("group", [(), ("vm",), ("point",), ("repository",)])
def test_a_command_that_needs_another_shows_its_help(command: Command, group: tuple[str, ...]) -> None:
    ended = command(*group)
    assert ended.status == EXIT_BAD_ARGUMENTS
    assert ended.error.startswith("Usage: kvm-backup")
    assert "Commands:" in ended.error


@pytest.mark.parametrize(
    "arguments",
    [
        ("--nosuch",),
        ("nosuch",),
        ("point", "lst"),
        ("point", "show"),
        ("point", "list", "web", "extra"),
        ("backup", "--mode", "differential", "web"),
        ("backup",),
        ("backup", "web", "--all"),
        ("restore", "web/latest"),
        ("restore", "web/latest", "--to"),
        ("restore", "web/latest", "--to", "x", "--as", "y"),
        ("restore", "web/latest", "--to", "x", "--format", "vmdk"),
        ("restore", "web/latest", "--to", "x", "--yes"),
        ("restore", "web/latest", "--to", "x", "--start"),
        ("verify", "web/latest", "--all"),
        ("verify", "--vm", "web", "--all"),
        ("repository", "init"),
        (b"\xff",),
        (NASTY,),
        ("backup", f"--{NASTY}"),
    ],
)
def test_bad_arguments_are_one_clear_error(command: Command, arguments: tuple[str, ...]) -> None:
    one_clear_error(command(*arguments), EXIT_BAD_ARGUMENTS)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("KVM_BACKUP_CONFIG", "/nonexistent/kvm-backup.toml"),
        ("KVM_BACKUP_CONFIG", "/"),
        ("KVM_BACKUP_STATE_DIR", "relative"),
        ("KVM_BACKUP_BACKUP__SPACE_RESERVE", "lots"),
        ("KVM_BACKUP_REPOSITORY", "{"),
    ],
)
@pytest.mark.parametrize("arguments", [("point", "list"), ("backup", "web"), ("repository", "list")])
def test_settings_that_cannot_be_used_stop_every_command(
    command: Command, arguments: tuple[str, ...], variable: str, value: str
) -> None:
    one_clear_error(command(*arguments, **{variable: value}), EXIT_BAD_ARGUMENTS)


def test_the_first_repository_makes_the_settings_file_that_the_variable_names(
    command: Command, tmp_path: Path
) -> None:
    named = {"KVM_BACKUP_CONFIG": str(tmp_path / "new.toml")}
    assert "repository init" in one_clear_error(command("repository", "list", **named), EXIT_BAD_ARGUMENTS)
    assert command("repository", "init", str(tmp_path / "nas"), **named).status == EXIT_DONE
    assert "nas" in {row["name"] for row in json.loads(command("repository", "list", "--json", **named).output)}


@pytest.mark.parametrize(
    "arguments", [("repository", "init", "nas"), ("repository", "add", "away", "ssh://away/srv"), ("point", "list")]
)
def test_a_settings_file_in_a_folder_that_is_not_there_is_not_made(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    named = tmp_path / "away" / "new.toml"
    told = one_clear_error(command(*arguments, KVM_BACKUP_CONFIG=str(named)), EXIT_BAD_ARGUMENTS)
    assert str(named.parent) in told
    assert not named.parent.exists()
    assert not (tmp_path / "nas").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("vm", "list"),
        ("vm", "list", "--json"),
        ("backup", "web"),
        ("backup", "--all"),
        ("restore", POINT, "--as", "web2"),
        ("restore", POINT, "--in-place", "--yes"),
    ],
)
def test_without_libvirt_a_command_that_needs_it_fails_with_one_clear_error(
    command: Command, shelf: Shelf, arguments: tuple[str, ...]
) -> None:
    shelf.add()
    assert "libvirt" in one_clear_error(command(*arguments), EXIT_FAILED)


def test_without_libvirt_the_doctor_says_so_and_goes_on(command: Command) -> None:
    ended = command("doctor", "--json")
    assert ended.status == EXIT_FAILED
    report = json.loads(ended.output)
    assert {check["name"]: check["health"] for check in report["checks"]}["libvirt"] == "problem"
    told = command("doctor").output
    assert "✗ libvirt" in told
    # Nobody could look for it.
    assert "left behind" not in told


def test_the_doctor_finds_schedules_that_no_service_starts(command: Command) -> None:
    state = Path(command.environment["KVM_BACKUP_STATE_DIR"])

    def service() -> dict[str, str]:
        checks = json.loads(command("doctor", "--json", TZ="UTC").output)["checks"]
        [found] = [check for check in checks if check["name"] == "service"]
        return dict(found)

    assert (service()["health"], service()["detail"]) == ("ok", "does not run; no schedule needs it")
    assert command("schedule", "add", "n", "--vms", "web", "--type", "daily", "--time", "02:00").status == EXIT_DONE
    found = service()
    assert (found["health"], found["detail"]) == ("problem", "does not run: nothing starts the enabled schedule")
    assert "systemctl enable --now kvm-backup" in found["hint"]
    assert "kvm-backup serve" in found["hint"]
    with only_service(state):
        assert (service()["health"], service()["detail"]) == ("ok", "runs")
        beat = "2026-11-22T10:00:00+00:00"
        write_heartbeat(state, Heartbeat(1, "host", beat, beat))
        assert service()["detail"] == "runs since 2026-11-22 10:00 UTC"
    assert service()["health"] == "problem"


def test_a_relative_place_is_told_and_written_without_the_way_there(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = command("repository", "init", "away/../nas")
    assert f"made in {tmp_path.resolve()}/nas\n" in ended.output
    assert f'path = "{tmp_path.resolve()}/nas"\n' in Path(command.environment["KVM_BACKUP_CONFIG"]).read_text()
    assert not (tmp_path / "away").exists()


def test_the_doctor_breaks_its_lines_between_words_at_the_width_of_the_terminal(command: Command) -> None:
    assert command("schedule", "add", "n", "--vms", "web", "--type", "daily", "--time", "02:00").status == EXIT_DONE
    told = command("doctor", COLUMNS="40").output
    assert "✗ service: does not run: nothing starts\n  the enabled schedule\n" in told


def test_with_bad_settings_the_doctor_says_so_and_checks_the_host_all_the_same(command: Command) -> None:
    ended = command("doctor", "--json", KVM_BACKUP_STATE_DIR="relative")
    assert ended.status == EXIT_FAILED
    health = {check["name"]: check["health"] for check in json.loads(ended.output)["checks"]}
    assert health["settings"] == "problem"
    assert {"qemu-img", "libvirt"} <= set(health)
    assert "nothing is left behind" not in command("doctor", KVM_BACKUP_STATE_DIR="relative").output


def test_a_misspelt_variable_is_a_warning_of_the_doctor(command: Command) -> None:
    assert "KVM_BACKUP_STATEDIR is no setting" in command("doctor", KVM_BACKUP_STATEDIR="/x").output


@pytest.mark.parametrize(
    "arguments",
    [
        ("point", "show", "web/latest"),
        ("point", "show", NASTY),
        ("point", "show", b"\xff\xfe"),
        ("verify", "web/latest"),
        ("verify", "--vm", "web"),
        ("restore", "web/latest", "--to", "/nonexistent/x"),
        ("point", "list", "-r", "nosuch"),
        ("point", "list", "-r", "/nonexistent/x"),
        ("repository", "check", "-r", NASTY),
        ("backup", "web", "-r", "nosuch"),
    ],
)
def test_what_does_not_exist_is_not_found(command: Command, arguments: tuple[str, ...]) -> None:
    one_clear_error(command(*arguments), EXIT_NOT_FOUND)


@pytest.mark.parametrize(
    "arguments",
    [
        ("point", "list"),
        ("point", "show", POINT),
        ("verify", POINT),
        ("restore", POINT, "--to", "/nonexistent/x"),
        ("repository", "check"),
        ("repository", "rescan"),
    ],
)
def test_a_repository_that_is_not_understood_is_one_clear_error(
    command: Command, shelf: Shelf, arguments: tuple[str, ...]
) -> None:
    (shelf.root / "kvm-backup.json").write_text('{"format": 99}')
    one_clear_error(command(*arguments), EXIT_FAILED)


def test_a_state_folder_that_cannot_be_used_is_one_clear_error(command: Command, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    for arguments in (("point", "list"), ("vm", "list"), ("backup", "web")):
        one_clear_error(command(*arguments), EXIT_FAILED)


def test_a_corrupt_catalogue_is_one_clear_error_and_removing_it_helps(
    command: Command, shelf: Shelf, tmp_path: Path
) -> None:
    shelf.add()
    catalogue = tmp_path / "state" / "catalogue.db"
    catalogue.write_bytes(b"no database" * 1000)
    assert str(catalogue) in one_clear_error(command("point", "list"), EXIT_FAILED)
    catalogue.unlink()
    assert POINT in command("point", "list").output


def test_the_hint_at_a_damaged_latest_point_names_the_newest_that_can_be_read(command: Command, shelf: Shelf) -> None:
    shelf.add()
    readable, bad = shelf.add(), shelf.add()
    flip_bit(shelf.path(bad, "manifest.json"), 50)
    for words in (("point", "show"), ("verify",), ("restore", "--to", "/nonexistent/x")):
        told = one_clear_error(command(*words, "web/latest"), EXIT_FAILED)
        assert bad.id in told.splitlines()[0]
        assert f"can be read: {readable.id}." in told
        assert readable.id not in one_clear_error(command(*words, bad.id), EXIT_FAILED)


def test_a_damaged_manifest_is_told_beside_the_points_that_can_be_read(command: Command, shelf: Shelf) -> None:
    bad, good = shelf.add(), shelf.add()
    flip_bit(shelf.path(bad, "manifest.json"), 50)
    ended = command("point", "list", "--json")
    assert [point["id"] for point in json.loads(ended.output)] == [good.id]
    assert bad.id in one_clear_error(ended, EXIT_DONE)
    one_clear_error(command("point", "show", bad.id), EXIT_FAILED)
    one_clear_error(command("repository", "rescan"), EXIT_FAILED)
    assert command("repository", "check").status == EXIT_FAILED


@pytest.mark.parametrize(
    "arguments",
    [
        ("backup", "web", "--all"),
        ("restore", "web/latest", "--to", "x", "--as", "y"),
        ("verify", "--vm", "web", "--all"),
    ],
)
def test_options_that_contradict_each_other_are_told_so(command: Command, arguments: tuple[str, ...]) -> None:
    assert "give only one of" in one_clear_error(command(*arguments), EXIT_BAD_ARGUMENTS)


def test_a_vm_without_points_is_not_found_where_others_have_some(command: Command, shelf: Shelf) -> None:
    shelf.add()
    assert "no restore point of a VM 'nope'" in one_clear_error(command("point", "list", "nope"), EXIT_NOT_FOUND)
    ended = command("point", "list", "nope", "--json")
    one_clear_error(ended, EXIT_NOT_FOUND)
    assert json.loads(ended.output) == []


def test_a_vm_s_name_where_a_point_is_asked_for_brings_the_newest_to_mind(command: Command, shelf: Shelf) -> None:
    shelf.add()
    for arguments in (("point", "show", "web"), ("verify", "web"), ("restore", "web", "--to", "/nonexistent/x")):
        assert "Did you mean web/latest?" in one_clear_error(command(*arguments), EXIT_NOT_FOUND)
    assert "--vm web" in command("verify", "web").error


def test_points_in_another_repository_are_pointed_out(command: Command, shelf: Shelf, tmp_path: Path) -> None:
    shelf.add(shelf.add())
    assert command("repository", "init", str(tmp_path / "nas"), "--default").status == EXIT_DONE
    for arguments in (("point", "show", "web/latest"), ("point", "list", "web"), ("verify", "--vm", "web")):
        told = one_clear_error(command(*arguments), EXIT_NOT_FOUND)
        assert "Repository default holds points of it (2): add -r default." in told


def test_a_repository_becomes_the_default_once_and_the_rest_of_the_settings_stays(
    command: Command, tmp_path: Path
) -> None:
    settings = tmp_path / "kvm-backup.toml"
    settings.write_text("# mine\n[snapshot]\nkeep = 4\n")
    assert command("repository", "init", str(tmp_path / "nas"), "--default").status == EXIT_DONE
    assert "# mine\n[snapshot]\nkeep = 4\n" in settings.read_text()
    listed = json.loads(command("repository", "list", "--json").output)
    assert [(row["name"], row["default"]) for row in listed] == [("nas", True)]
    again = command("repository", "init", str(tmp_path / "usb"), "--default")
    assert "nas" in one_clear_error(again, EXIT_BAD_ARGUMENTS)
    assert not (tmp_path / "usb").exists()


def test_the_default_repository_is_listed_before_its_first_use_and_not_made_for_that(
    command: Command, tmp_path: Path
) -> None:
    before = command("repository", "list")
    assert [line.split()[0] for line in before.output.splitlines()] == ["REPOSITORY", "default"]
    assert "(default)" not in before.output
    [row] = json.loads(command("repository", "list", "--json").output)
    assert (row["default"], row["id"], row["error"]) == (True, None, None)
    assert not Path(row["path"]).exists()


def test_the_name_of_no_repository_is_answered_with_all_there_are(command: Command, tmp_path: Path) -> None:
    settings = tmp_path / "kvm-backup.toml"
    settings.write_text('[[repository]]\nname = "nas"\nurl = "ssh://nas/srv"\nof = "default"\n')
    refused = command("verify", "-r", "nass")
    assert refused.status == EXIT_NOT_FOUND
    assert "Configured: default, nas." in refused.error


def test_a_configured_repository_that_is_gone_is_not_to_be_made_anew(command: Command, tmp_path: Path) -> None:
    command("repository", "init", str(tmp_path / "nas"))
    (tmp_path / "nas").rename(tmp_path / "unmounted")
    told = one_clear_error(command("point", "list", "-r", "nas"), EXIT_NOT_FOUND)
    assert "mounted" in told
    assert "repository init" not in told
    file = command.environment["KVM_BACKUP_CONFIG"]
    assert f"remove the [[repository]] table named 'nas' from {file}." in told
    listed = command("repository", "list", COLUMNS="80").output.splitlines()
    assert any("unusable" in line for line in listed)


def test_verify_tells_whole_from_damaged_by_its_exit_code(command: Command, shelf: Shelf) -> None:
    full = shelf.add()
    shelf.add(full)
    whole = command("verify", "--deep")
    assert whole.status == EXIT_DONE
    assert "2 points, none damaged" in whole.output
    flip_bit(shelf.path(full), 65536 + 5000)
    damaged = command("verify")
    assert damaged.status == EXIT_FAILED
    assert f"✗ {full.id}: damaged" in damaged.output
    assert "vda.qcow2 (byte 65536, disk offset 0)" in damaged.output
    lines = [json.loads(line) for line in command("verify", "--json").output.splitlines()]
    assert [(line["event"], line["good"]) for line in lines] == [("verified", False), ("verified", True)]


def test_an_empty_repository_has_nothing_damaged(command: Command) -> None:
    assert command("verify").status == EXIT_DONE
    assert json.loads(command("point", "list", "--json").output) == []


def test_restoring_to_a_folder_writes_it_once(command: Command, shelf: Shelf, tmp_path: Path) -> None:
    shelf.add(shelf.add())
    target = tmp_path / "restored"
    ended = command("restore", "web/latest", "--to", str(target), "--format", "raw", "--json")
    assert ended.status == EXIT_DONE, ended
    last = json.loads(ended.output.splitlines()[-1])
    assert last["event"] == "restored"
    assert [disk["path"] for disk in last["disks"]] == [str(target / "vda.img")]
    assert sorted(entry.name for entry in target.iterdir()) == ["domain.xml", "manifest.json", "vda.img"]
    before = (target / "vda.img").read_bytes()
    again = command("restore", "web/20261122T02", "--to", str(target), "--format", "raw")
    one_clear_error(again, EXIT_FAILED)
    assert (target / "vda.img").read_bytes() == before


def test_a_damaged_point_is_not_restored_and_nothing_is_left(command: Command, shelf: Shelf, tmp_path: Path) -> None:
    full = shelf.add()
    shelf.add(full)
    flip_bit(shelf.path(full), 70_000)
    one_clear_error(command("restore", "web/latest", "--to", str(tmp_path / "restored")), EXIT_FAILED)
    assert not (tmp_path / "restored").exists()


def test_a_repository_is_made_added_to_the_settings_and_used_by_its_name(command: Command, tmp_path: Path) -> None:
    assert command("repository", "init", str(tmp_path / "nas")).status == EXIT_DONE
    listed = json.loads(command("repository", "list", "--json").output)
    assert {row["name"]: row["path"] for row in listed}["nas"] == str(tmp_path / "nas")
    assert command("point", "list", "-r", "nas").status == EXIT_DONE
    assert command("point", "list", "-r", str(tmp_path / "nas")).status == EXIT_DONE


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("my repository",), EXIT_BAD_ARGUMENTS),
        (("nas", "--name", "a/b"), EXIT_BAD_ARGUMENTS),
        (("nas", "--name", "[red]"), EXIT_BAD_ARGUMENTS),
        (("na\ns", "--name", "nas"), EXIT_BAD_ARGUMENTS),
        ((b"n\xff", "--name", "nas"), EXIT_BAD_ARGUMENTS),
        (("full",), EXIT_FAILED),
        (("full/file",), EXIT_FAILED),
    ],
)
def test_a_repository_that_cannot_be_made_or_named_leaves_no_trace(
    command: Command, tmp_path: Path, arguments: tuple[str | bytes, ...], status: int
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    before = sorted(tmp_path.rglob("*"))
    first, *others = arguments
    path = os.fsencode(tmp_path) + b"/" + (first if isinstance(first, bytes) else first.encode())
    one_clear_error(command("repository", "init", path, *others), status)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "kvm-backup.toml").read_text() == ""


def test_names_from_outside_never_reach_the_screen_raw(command: Command, shelf: Shelf) -> None:
    shelf.vm_name = NASTY
    manifest = shelf.add(notices=(NASTY,), checkpoint=NASTY)
    shelf.add(manifest, demotion={"reason": "no-point", "detail": NASTY})
    flip_bit(shelf.path(manifest), 70_000)
    for arguments in (
        ("point", "list"),
        ("point", "list", "--json"),
        ("point", "show", manifest.id),
        ("point", "show", manifest.id, "--json"),
        ("verify",),
        ("verify", "--json"),
        ("verify", "--vm", NASTY),
        ("restore", manifest.id, "--to", f"/nonexistent/{NASTY}"),
        ("repository", "check"),
    ):
        ended = command(*arguments)
        assert "error: unexpected" not in ended.error
        for text in (ended.output, ended.error):
            assert [letter for letter in text if not letter.isprintable() and letter != "\n"] == []
    shown = command("point", "show", manifest.id).output
    assert r"\x1b[31m[red]x[/red]" in shown
    assert json.loads(command("point", "show", manifest.id, "--json").output)["vm"] == NASTY


def test_an_id_too_long_for_the_screen_stays_whole(command: Command, shelf: Shelf) -> None:
    shelf.vm_name = "a-machine-with-a-name-of-" + "many-words-" * 9
    manifest = shelf.add()
    for columns in ("80", "40"):
        assert manifest.id in command("point", "list", COLUMNS=columns).output.splitlines()


def test_lists_fit_80_columns_and_are_as_wide_as_needed_in_a_pipe(command: Command, shelf: Shelf) -> None:
    shelf.vm_name = "web-server-01.paris.example"
    manifest = shelf.add()
    for arguments in (("point", "list"), ("repository", "list"), ("verify",)):
        wide = [line for line in command(*arguments, COLUMNS="80").output.splitlines() if len(line) > 80]
        assert [line for line in wide if str(shelf.root) not in line and manifest.id not in line] == []
    [_, row] = command("point", "list").output.splitlines()
    assert row.split() == [manifest.id, "full", "filesystem", *row.split()[-2:]]


def _tree(group: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path]
    for name, inner in getattr(group, "commands", {}).items():
        found += _tree(inner, (*path, name))
    return found


def commands() -> list[tuple[str, ...]]:
    import typer.main

    from kvm_backup.cli.main import app

    return _tree(typer.main.get_command(app))


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_the_help_of_every_command_fits_80_columns_and_cuts_no_sentence(
    command: Command, path: tuple[str, ...]
) -> None:
    ended = command(*path, "--help", COLUMNS="80")
    assert ended.status == EXIT_DONE
    assert max(map(len, ended.output.splitlines())) <= 80
    assert re.findall(r"[^]]\.\.\.$", ended.output, re.MULTILINE) == []


def test_a_reader_that_goes_away_is_no_fault(command: Command, shelf: Shelf) -> None:
    for _ in range(3):
        shelf.add()
    for arguments in ("point list", "point list --json", "verify", "repository check", "--help"):
        line = f"set -o pipefail; {COMMAND} {arguments} | head -c 1"
        done = subprocess.run(
            ["bash", "-c", line], env=command.environment, capture_output=True, timeout=60, check=False
        )
        assert done.stderr == b""
        assert done.returncode in (EXIT_DONE, EXIT_FAILED)


def test_a_terminal_without_unicode_is_no_fault(command: Command, shelf: Shelf) -> None:
    shelf.vm_name = "café"
    manifest = shelf.add()
    plain = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    assert command.started("verify", **plain).status == EXIT_DONE
    shown = json.loads(command.started("point", "show", manifest.id, "--json", **plain).output)
    assert shown["vm"] == "café"


def test_the_exit_codes_are_those_that_the_help_tells(command: Command) -> None:
    told = dict(re.findall(r"(\d) ([a-z ]+)", command("--help").output.split("Exit codes:")[1]))
    assert {int(code) for code in told} == {
        EXIT_DONE,
        EXIT_FAILED,
        EXIT_BAD_ARGUMENTS,
        EXIT_SOME_FAILED,
        EXIT_NOT_FOUND,
    }
