"""`kvm-backup prune` as a process: what it says, what it refuses, and whose rule holds. libvirt is not there."""

import json

import pytest

from tests.unit.builders import Shelf
from tests.unit.cli.conftest import Command

ONE = {"KVM_BACKUP_RETENTION__LAST": "1"}


def test_a_dry_run_explains_each_point_and_changes_nothing(command: Command, shelf: Shelf) -> None:
    full = shelf.add()
    child = shelf.add(full)
    told = command("prune", "web", "--dry-run", **ONE)
    assert (told.status, told.error) == (0, "")
    assert f"- {full.id}\n    goes\n✓ {child.id}\n    kept: one of the newest, daily 2026-11-22" in told.output
    assert "becomes a full point" in told.output
    assert "points to keep: 1, to remove: 1, to make full: 1; about" in told.output
    assert [point.id for point in shelf.repository.all_points()] == [full.id, child.id]


def test_what_goes_is_gone_and_the_json_says_so(command: Command, shelf: Shelf) -> None:
    full = shelf.add()
    child = shelf.add(full)
    done = command("prune", "--all", "--json", **ONE)
    assert (done.status, done.error) == (0, "")
    result = json.loads(done.output)
    assert result["event"] == "pruned"
    assert [(point["id"], point["kept"], point["consolidated"]) for point in result["points"]] == [
        (full.id, False, False),
        (child.id, True, True),
    ]
    assert result["bytes_freed"] == result["bytes_before"] - result["bytes_after"]
    assert [point["mode"] for point in json.loads(command("point", "list", "--json").output)] == ["full"]


@pytest.mark.parametrize(
    ("settings", "stay"),
    [
        ("[retention]\nlast = 1", 1),
        ("[retention]\nlast = 1\n[vm.web.retention]\nlast = 2", 2),
        ("[retention]\nlast = 1\n[vm.1a2b3c4d-0000-4000-8000-000000000001.retention]\nlast = 2", 2),
        ('[retention]\nlast = 1\n[[repository]]\nname = "default"\npath = "{path}"\nretention = {{last = 3}}', 3),
        (
            (
                '[[repository]]\nname = "default"\npath = "{path}"\nretention = {{last = 3}}\n'
                "[vm.web.retention]\nlast = 2"
            ),
            2,
        ),
        ("", 4),
    ],
)
def test_the_most_specific_rule_holds(command: Command, shelf: Shelf, settings: str, stay: int) -> None:
    for _ in range(4):
        shelf.add()
    file = shelf.root.parent.parent / "kvm-backup.toml"
    file.write_text(settings.format(path=shelf.root))
    told = command("prune", "web", "--dry-run", "--json")
    assert told.error == ""
    assert sum(point["kept"] for point in json.loads(told.output)["points"]) == stay


def scheduled(command: Command, name: str, *words: str) -> None:
    done = command("schedule", "add", name, "--type", "daily", "--time", "02:00", *words)
    assert done.status == 0, done


def test_schedules_that_back_a_vm_up_there_say_how_many_stay(command: Command, shelf: Shelf) -> None:
    for _ in range(6):
        shelf.add()
    few = dict.fromkeys((f"KVM_BACKUP_RETENTION__{kind}" for kind in ("DAILY", "WEEKLY", "MONTHLY")), "0") | ONE

    def stay(**settings: str) -> int:
        told = command("prune", "web", "--dry-run", "--json", **few, **settings)
        return sum(point["kept"] for point in json.loads(told.output)["points"])

    scheduled(command, "other VM", "--vms", "db", "--keep-last", "6")
    scheduled(command, "elsewhere", "--vms", "web", "--repository", "/mnt/usb", "--keep-last", "6")
    assert stay() == 1
    scheduled(command, "three", "--vms", "db", "web", "--keep-last", "3")
    assert stay() == 3
    scheduled(command, "five", "--vms", shelf.vm_uuid, "--repository", str(shelf.root), "--keep-last", "5")
    assert stay() == 5
    assert stay(KVM_BACKUP_VM='{"web": {"retention": {"last": 2}}}') == 2


def test_nothing_goes_while_it_cannot_be_read_what_the_schedules_want(command: Command, shelf: Shelf) -> None:
    points = [shelf.add(), shelf.add()]
    (shelf.root.parent / "scheduled_backups.json").write_text("[{")
    refused = command("prune", "web", **ONE)
    assert refused.status == 1
    assert "scheduled_backups.json: line 1 column 3" in refused.error
    assert [point.id for point in shelf.repository.all_points()] == [point.id for point in points]


@pytest.mark.parametrize(
    ("words", "status", "cause"),
    [
        ((), 2, "name the VMs to prune, or give --all"),
        (("web", "--all"), 2, "name the VMs to prune, or give --all"),
        (("db",), 4, "holds no point of a VM 'db'"),
        (("web", "-r", "nowhere"), 4, "no repository is called 'nowhere'"),
    ],
)
def test_what_cannot_be_pruned_is_refused(
    command: Command, shelf: Shelf, words: tuple[str, ...], status: int, cause: str
) -> None:
    shelf.add()
    refused = command("prune", *words)
    assert refused.status == status
    assert cause in refused.error
    assert "HINT: " in refused.error


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ("[retention]\nlast = 0", "retention.last"),
        ("[retention]\ndaily = -1", "retention.daily"),
        ("[vm.web.retention]\nhourly = 3", "vm.web.retention.hourly"),
        ("[vm.web.retention]\nafter_backup = false", "vm.web.retention.after_backup"),
    ],
)
def test_a_rule_that_cannot_be_is_an_error(command: Command, shelf: Shelf, settings: str, key: str) -> None:
    shelf.add()
    (shelf.root.parent.parent / "kvm-backup.toml").write_text(settings)
    refused = command("prune", "web")
    assert refused.status == 2
    assert key in refused.error


def test_one_vm_that_cannot_be_pruned_stops_no_other(command: Command, shelf: Shelf) -> None:
    shelf.add()
    broken = Shelf(shelf.root, vm_name="a", vm_uuid="2a2b3c4d-0000-4000-8000-000000000002").add()
    (shelf.repository.path_of(broken.id) / "manifest.json").write_text("{}")
    done = command("prune", "--all", "--json")
    assert done.status == 3
    assert "not known whose" in done.error
    assert json.loads(done.output)["vm"] == "web"
