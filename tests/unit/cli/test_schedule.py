"""The schedule commands as their user types them, by either name."""

import json
import re
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from kvm_backup.domain.errors import EXIT_BAD_ARGUMENTS, EXIT_DONE, EXIT_FAILED, EXIT_NOT_FOUND
from kvm_backup.runtime.heartbeat import only_service
from tests.unit.cli.conftest import Command, Ended

MANAGER = Path(__file__).parents[3] / "schedule_manager.py"
ADD = ("schedule", "add", "Nom", "--vms", "vm1", "vm2", "--type", "daily", "--time", "02:00", "--mode", "incremental")

LISTING = """
import runpy, sys
sys.argv = ["x", "list"]
try:
    runpy.run_module("kvm_backup.cli.schedule", run_name="__main__")
finally:
    print(sorted({"libvirt", "nbd", "sqlalchemy", "dbos"} & set(sys.modules)))
"""


@pytest.fixture
def schedule(command: Command) -> Command:
    command.environment |= {"TZ": "Europe/Paris", "KVM_BACKUP_LANG": "en"}
    return command


def state(command: Command) -> Path:
    return Path(command.environment["KVM_BACKUP_STATE_DIR"]) / "scheduled_backups.json"


def listed(command: Command) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(command("schedule", "list", "--json").output)
    return found


def manager(command: Command, *arguments: str, **environment: str) -> Ended:
    """The file at the repository's root, by a Python that has none of our modules."""
    done = subprocess.run(
        ["/usr/bin/python3", MANAGER, *arguments],
        env={**command.environment, **environment},
        capture_output=True,
        timeout=60,
        check=False,
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def test_the_life_of_a_schedule(schedule: Command) -> None:
    assert schedule("schedule", "list").output.startswith("There are no schedules. Add one: ")
    added = schedule(*ADD)
    assert added.status == EXIT_DONE, added
    assert "every day at 02:00, incremental: vm1, vm2" in added.output
    assert added.error.startswith("note: whether these VMs exist could not be checked: vm1, vm2")
    [row] = listed(schedule)
    assert (row["name"], row["vm_names"], row["enabled"]) == ("Nom", ["vm1", "vm2"], True)
    assert datetime.fromisoformat(row["next_run"]).tzinfo is not None
    assert row["timezone"] == "Europe/Paris"
    shown = schedule("schedule", "list").output
    [line] = [line for line in shown.splitlines() if line.startswith(row["id"][:8])]
    assert re.search(r"Nom +vm1, vm2 +every day at 02:00 +incremental +scheduled +\d", line)
    assert re.search(r"\d 02:00 CES?T \((in \d+ (minute|hour)s?|now)\)", shown)
    assert "Times are in the zone Europe/Paris." in shown

    prefix = row["id"][:4]
    assert schedule("schedule", "disable", prefix).status == EXIT_DONE
    assert listed(schedule)[0]["next_run"] is None
    assert "disabled" in schedule("schedule", "list").output
    assert schedule("schedule", "enable", prefix).status == EXIT_DONE
    assert listed(schedule) == [row]
    edited = schedule("schedule", "edit", prefix, "--vms", "a", "--", "-b", "--c")
    assert edited.status == EXIT_DONE, edited
    assert listed(schedule)[0]["vm_names"] == ["a", "-b", "--c"]
    assert "-b" in schedule("schedule", "show", prefix).output
    assert schedule("schedule", "remove", prefix).status == EXIT_DONE
    assert listed(schedule) == []


def test_a_schedule_is_named_by_its_name_unless_two_have_it_or_an_id_begins_so(schedule: Command) -> None:
    first = json.loads(schedule(*ADD, "--json").output)["id"]
    for verb in ("disable", "enable", "show", "next"):
        assert schedule("schedule", verb, "Nom").status == EXIT_DONE
    other = json.loads(schedule("schedule", "add", "Autre", *ADD[3:], "--json").output)["id"]
    state(schedule).write_text(state(schedule).read_text().replace('"Autre"', '"Nom"'))  # as an editor may
    refused = schedule("schedule", "disable", "Nom")
    assert refused.status == EXIT_NOT_FOUND
    assert "2 schedules are called 'Nom'" in refused.error
    assert first in refused.error
    assert other in refused.error
    assert manager(schedule, "edit", other, "--name", first[:8]).status == EXIT_DONE
    assert json.loads(schedule("schedule", "show", first[:8], "--json").output)["id"] == first
    assert manager(schedule, "remove", "Nom").status == EXIT_DONE
    assert [row["id"] for row in listed(schedule)] == [other]
    assert "no schedule has the id or the name 'nom'" in schedule("schedule", "show", "nom").error


def test_while_no_service_runs_adding_and_listing_say_that_nothing_will_be_started(schedule: Command) -> None:
    assert schedule("schedule", "list").error == ""
    warning = "no service runs that would start schedules: 'systemctl enable --now kvm-backup' or 'kvm-backup serve'"
    assert schedule(*ADD).error.splitlines()[-1] == f"note: {warning}"
    added = json.loads(schedule("schedule", "add", "Autre", *ADD[3:], "--json").output)
    assert added["warnings"][-1] == warning
    for words in ((), ("--json",)):
        assert schedule("schedule", "list", *words).error == f"note: {warning}\n"
    with only_service(state(schedule).parent):
        assert schedule("schedule", "list").error == ""
        added = json.loads(schedule("schedule", "add", "Encore", *ADD[3:], "--json").output)
        assert warning not in added["warnings"]
    for one in listed(schedule):
        schedule("schedule", "disable", one["id"])
    assert schedule("schedule", "list").error == ""


def test_json_is_one_document_for_every_command(schedule: Command) -> None:
    added = json.loads(schedule(*ADD, "--json").output)
    assert added["name"] == "Nom"
    assert len(added["warnings"]) == 2  # VMs that could not be asked for, and no service
    own = added["id"]
    for verb in ("show", "disable", "enable"):
        assert json.loads(schedule("schedule", verb, own, "--json").output)["id"] == own
    times = json.loads(schedule("schedule", "next", own, "--count", "3", "--json").output)
    assert [when["local"][10:16] for when in times] == ["T02:00"] * 3
    assert [datetime.fromisoformat(when["utc"]) for when in times] == [
        datetime.fromisoformat(when["local"]) for when in times
    ]
    assert json.loads(schedule("schedule", "due", "--json").output) == []
    assert json.loads(schedule("schedule", "edit", own, "--name", "Été", "--json").output)["name"] == "Été"
    assert json.loads(schedule("schedule", "remove", own, "--json").output)["id"] == own


def test_repository_scripts_and_retention_are_shown_and_removed(schedule: Command) -> None:
    said = ("--repository", "/mnt/usb", "--pre-script", "/bin/before 'a b'", "--keep-daily", "30", "--keep-last", "1")
    made = json.loads(schedule(*ADD, *said, "--json").output)
    options = ("repository", "pre_script", "post_script", "retention")
    kept = {"last": 1, "daily": 30, "weekly": None, "monthly": None, "yearly": None}
    assert [made[key] for key in options] == ["/mnt/usb", ["/bin/before", "a b"], None, kept]
    shown = schedule("schedule", "show", made["id"]).output
    for line in ("repository +/mnt/usb", "script before +/bin/before 'a b'", "keeps +the newest point, 30 days"):
        assert re.search(line, shown), shown
    assert "script after" not in shown
    none = ("--repository", "", "--pre-script", "", "--keep-daily", "", "--keep-last", "")
    edited = json.loads(schedule("schedule", "edit", made["id"], *none, "--json").output)
    assert [edited[key] for key in options] == [None] * 4
    refused = schedule("schedule", "edit", made["id"], "--repository", "nas")
    assert refused.status == EXIT_BAD_ARGUMENTS
    assert "repository: 'nas' cannot be used" in refused.error
    assert "Expected: one of default, or a path" in refused.error
    assert options[0] not in json.loads(state(schedule).read_text())[0]


def test_a_remote_that_settings_name_no_longer_is_marked(schedule: Command) -> None:
    settings = Path(schedule.environment["KVM_BACKUP_CONFIG"])
    nas, away = (
        f'[[repository]]\nname = "{name}"\nurl = "ssh://{name}/srv"\nof = "default"\n' for name in ("nas", "away")
    )
    settings.write_text(nas + away)
    made = json.loads(schedule(*ADD, "--ship-to", "nas", "away", "--json").output)
    settings.write_text(nas)
    shown = schedule("schedule", "show", made["id"]).output
    assert re.search(r"shipped to +nas, away \(not in the settings\)", shown), shown


def test_remotes_are_said_one_after_the_other_shown_and_taken_back(schedule: Command) -> None:
    remotes = [("nas", "default"), ("away", "default"), ("tape", "usb"), ("old", None)]
    Path(schedule.environment["KVM_BACKUP_CONFIG"]).write_text(
        '[[repository]]\nname = "usb"\npath = "/usb"\n'
        + "".join(
            f'[[repository]]\nname = "{name}"\nurl = "ssh://{name}/srv"\n' + (f'of = "{of}"\n' if of else "")
            for name, of in remotes
        )
    )
    made = json.loads(schedule(*ADD, "--ship-to", "nas", "away", "--json").output)
    assert made["ship_to"] == ["nas", "away"]
    shown = schedule("schedule", "show", made["id"]).output
    assert re.search("shipped to +nas, away", shown), shown
    for name in ("tape", "old", "usb", "nope"):
        refused = schedule("schedule", "edit", made["id"], "--ship-to", name)
        assert refused.status == EXIT_BAD_ARGUMENTS
        assert f"ship_to: '{name}' cannot be used" in refused.error
        assert "away, nas, none, default" in " ".join(refused.error.split())
    astray = schedule("schedule", "edit", made["id"], "-r", "usb")
    assert "ship_to: 'nas' cannot be used" in astray.error
    none = json.loads(schedule("schedule", "edit", made["id"], "--ship-to", "none", "--json").output)
    assert none["ship_to"] == []
    assert re.search("shipped to +nowhere", schedule("schedule", "show", made["id"]).output)
    back = json.loads(schedule("schedule", "edit", made["id"], "--ship-to", "default", "--json").output)
    assert back["ship_to"] is None
    assert "shipped to" not in schedule("schedule", "show", made["id"]).output
    assert "ship_to" not in json.loads(state(schedule).read_text())[0]


@pytest.mark.parametrize(
    ("language", "last_day"),
    [("en", "(on the last day in shorter months)"), ("fr", "(le dernier jour dans les mois plus courts)")],
)
def test_a_day_that_not_every_month_has_is_told_to_be_the_last_one_there(
    schedule: Command, language: str, last_day: str
) -> None:
    schedule.environment["KVM_BACKUP_LANG"] = language
    for day in (28, 29, 31):
        name = f"day {day}"
        added = schedule("schedule", "add", name, "--vms", "a", "--type", "monthly", "--time", f"{day}:04:00")
        [row] = [line for line in schedule("schedule", "list").output.splitlines() if name in line]
        for shown in (added.output, row, schedule("schedule", "show", name).output):
            assert (last_day in shown) == (day > 28), shown


def test_what_is_overdue_is_due(schedule: Command) -> None:
    schedule(*ADD)
    file = state(schedule)
    [entry] = json.loads(file.read_text())
    file.write_text(
        json.dumps([entry | {"next_run": "2026-01-01T02:00:00"}])
    )  # local time, as the first version wrote
    [due] = json.loads(schedule("schedule", "due", "--json").output)
    assert due["next_run"] == "2026-01-01T01:00:00+00:00"
    assert "ago)" in schedule("schedule", "due").output


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("N", "--vms", "a", "--type", "yearly", "--time", "02:00"), "schedule_type: 'yearly'"),
        (("N", "--vms", "a", "--type", "daily", "--time", "25:00"), "schedule_time: '25:00'"),
        (("N", "--vms", "a", "--type", "weekly", "--time", "sunday"), "schedule_time: 'sunday'"),
        (("N", "--vms", "a", "--type", "monthly", "--time", "32:04:00"), "schedule_time: '32:04:00'"),
        (("N", "--vms", "--type", "daily", "--time", "02:00"), "vm_names"),
        (("N", "--type", "daily", "--time", "02:00"), "--vms"),
        (("", "--vms", "a", "--type", "daily", "--time", "02:00"), "name: ''"),
        (("nom", "--vms", "a", "--type", "daily", "--time", "02:00"), "name: 'nom'"),
        (("\x1b[2J", "--vms", "a", "--type", "daily", "--time", "02:00"), "name: "),
        (("--vms", "a", "--type", "daily", "--time", "02:00"), "NAME"),
        (("N", "--vms", "a", "--type", "daily", "--time", "02:00", "--mode", "partial"), "backup_mode: 'partial'"),
    ],
)
def test_bad_input_is_one_clear_error_that_changes_nothing(
    schedule: Command, arguments: tuple[str, ...], named: str
) -> None:
    schedule(*ADD)
    before = state(schedule).read_bytes()
    ended = schedule("schedule", "add", *arguments)
    assert ended.status == EXIT_BAD_ARGUMENTS
    assert re.fullmatch(r"error: [^\n]+\nHINT: [^\n]+\n", ended.error), ended.error
    assert named in ended.error
    assert ended.error.replace("\n", "").isprintable()
    assert state(schedule).read_bytes() == before


@pytest.mark.parametrize("verb", ["show", "edit", "enable", "disable", "remove", "run", "next"])
def test_an_unknown_id_is_not_found(schedule: Command, verb: str) -> None:
    schedule(*ADD)
    before = state(schedule).read_bytes()
    ended = schedule("schedule", verb, "zzz", *(["--name", "x"] if verb == "edit" else []))
    assert (ended.status, ended.output) == (EXIT_NOT_FOUND, "")
    assert "'zzz'" in ended.error
    assert state(schedule).read_bytes() == before


def test_editing_nothing_is_refused(schedule: Command) -> None:
    schedule(*ADD)
    assert schedule("schedule", "edit", listed(schedule)[0]["id"]).status == EXIT_BAD_ARGUMENTS


def test_a_damaged_file_is_told_with_its_line_and_left_alone(schedule: Command) -> None:
    schedule(*ADD)
    state(schedule).write_text('[\n  {"id": ,}\n]')
    for arguments in (("schedule", "list"), ADD):
        ended = schedule(*arguments)
        assert (ended.status, ended.output) == (EXIT_FAILED, "")
        assert "scheduled_backups.json: line 2 column 10" in ended.error
    assert state(schedule).read_text() == '[\n  {"id": ,}\n]'


def test_a_schedule_that_cannot_be_used_is_shown_and_can_be_corrected(schedule: Command) -> None:
    schedule(*ADD)
    file = state(schedule)
    [entry] = json.loads(file.read_text())
    file.write_text(json.dumps([entry | {"schedule_time": "25:00"}]))
    assert "daily 25:00: cannot be used" in schedule("schedule", "list").output
    assert "25:00" in listed(schedule)[0]["problem"]
    assert schedule("schedule", "show", entry["id"]).status == EXIT_DONE
    assert schedule("schedule", "edit", entry["id"], "--time", "03:00").status == EXIT_DONE
    assert listed(schedule)[0]["problem"] is None


def test_a_run_that_fails_is_noted_and_ends_as_the_backup_does(schedule: Command) -> None:
    schedule(*ADD)
    before = listed(schedule)[0]
    ended = schedule("schedule", "run", before["id"])
    assert ended.status != EXIT_DONE
    assert "error: " in ended.error  # libvirtd is away
    after = listed(schedule)[0]
    assert after["status"] == "failed"
    assert after["last_run"] is not None
    assert after["next_run"] == before["next_run"]


def test_a_run_that_its_user_cancels_is_noted_as_no_failure(schedule: Command, tmp_path: Path) -> None:
    interrupting = tmp_path / "interrupting"
    # Once, whichever VM comes first: a second Ctrl-C means something else.
    interrupting.write_text(f"#!/bin/sh\nmkdir '{tmp_path / 'once'}' && kill -INT $PPID\nexec sleep 60\n")
    interrupting.chmod(0o755)
    schedule(*ADD, "--pre-script", str(interrupting))
    before = listed(schedule)[0]
    ended = schedule("schedule", "run", before["id"], KVM_BACKUP_LIBVIRT__URI="test:///default")
    assert ended.status != EXIT_DONE
    assert "was ended with the run" in ended.error
    after = listed(schedule)[0]
    assert after["last_run"] is not None
    assert after["status"] == before["status"] == "scheduled"


def test_an_unknown_zone_is_an_error(schedule: Command) -> None:
    ended = schedule("schedule", "list", KVM_BACKUP_TIMEZONE="Europe/Pari")
    assert ended.status == EXIT_BAD_ARGUMENTS
    assert "KVM_BACKUP_TIMEZONE" in ended.error


def test_names_cannot_steer_the_terminal(schedule: Command) -> None:
    assert schedule("schedule", "add", "[red]x[/red]", *ADD[3:]).status == EXIT_DONE
    assert "[red]x[/red]" in schedule("schedule", "list").output


def test_schedule_manager_is_the_same_with_the_machines_python(schedule: Command) -> None:
    added = manager(schedule, *ADD[1:])
    assert added.status == EXIT_DONE, added
    shown = [manager(schedule, "list").output, schedule("schedule", "list").output]
    assert len({re.sub(r"\(.*\)", "", output) for output in shown}) == 1  # but for how far from now it is
    assert manager(schedule, "due").output.startswith("No schedule is due.")
    own = listed(schedule)[0]["id"][:8]
    for verb in ("disable", "enable", "remove"):
        assert manager(schedule, verb, own).status == EXIT_DONE
    assert "Usage: schedule_manager.py" in manager(schedule, "--help").output
    assert manager(schedule, "remove", own).status == EXIT_NOT_FOUND


def test_schedule_manager_speaks_french(schedule: Command) -> None:
    weekly = ("add", "Hebdo", "--vms", "web", "--type", "weekly", "--time", "dimanche:03:00")
    added = manager(schedule, *weekly, KVM_BACKUP_LANG="", LC_ALL="fr_FR.UTF-8")
    assert "chaque dimanche à 03\xa0h\xa000" in added.output
    shown = manager(schedule, "list", KVM_BACKUP_LANG="fr").output
    assert "PROCHAINE EXÉCUTION" in shown
    assert "Heures du fuseau Europe/Paris." in shown


def test_schedule_manager_goes_without_libvirt_and_the_database(schedule: Command) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LISTING], env=schedule.environment, capture_output=True, check=False, timeout=60
    )
    assert done.stdout.decode().endswith("[]\n"), done
    assert done.returncode == EXIT_DONE


def test_without_an_environment_it_says_which_command_makes_one(schedule: Command, tmp_path: Path) -> None:
    copy = tmp_path / MANAGER.name
    copy.write_text(MANAGER.read_text().replace("/opt/kvm-backup", "/nonexistent"))
    done = subprocess.run(["/usr/bin/python3", copy, "list"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == EXIT_FAILED
    assert re.fullmatch(r"error: [^\n]+\nHINT: Run 'sudo make install' [^\n]+\n", done.stderr)


def test_many_schedules_are_listed_in_seconds(schedule: Command) -> None:
    schedule(*ADD)
    [entry] = json.loads(state(schedule).read_text())
    many = [entry | {"id": f"{number:032x}", "name": f"schedule {number}"} for number in range(10_000)]
    state(schedule).write_text(json.dumps(many))
    began = time.monotonic()
    shown = manager(schedule, "list")
    assert shown.status == EXIT_DONE
    assert len(shown.output.splitlines()) == 10_002
    assert time.monotonic() - began < 20  # 0.8 s where nothing else runs
