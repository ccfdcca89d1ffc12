"""docs/cli.md and docs/settings.md tell everything that the program has, and nothing that it has not."""

import json
import re
import tomllib
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import typer.main
from pydantic import BaseModel

from kvm_backup.cli.entry import DEBUG_VARIABLE
from kvm_backup.cli.main import app
from kvm_backup.cli.schedule_view import summary as summary_of_schedule
from kvm_backup.config.settings import FILE_VARIABLE, Settings, check
from kvm_backup.domain import errors
from kvm_backup.domain.chain import FullReason, Reason
from kvm_backup.domain.disk import Disk, LeftOut, SourceKind
from kvm_backup.domain.retention import Keep
from kvm_backup.domain.schedule import Schedule
from kvm_backup.domain.sizes import parse_size
from kvm_backup.domain.vm import Vm, VmState
from kvm_backup.engine.verify import DamageKind
from kvm_backup.services import events
from kvm_backup.services.checks import Check, Health
from kvm_backup.services.doctor import Remains
from kvm_backup.services.prune import PointVerdict, Pruned
from kvm_backup.services.queries import point_details, point_summary, vm_summary
from kvm_backup.services.repository_check import Oddity
from kvm_backup.services.restore_disks import Restored, RestoredDisk
from kvm_backup.services.schedules.format import KEYS, OPTIONAL_KEYS
from kvm_backup.services.stores.store import LocalStore
from kvm_backup.services.verify import Finding, Verdict
from tests.unit.builders import Shelf
from tests.unit.cli.conftest import Command

DOCS = Path(__file__).parents[3] / "docs"
CLI = (DOCS / "cli.md").read_text()
SETTINGS = (DOCS / "settings.md").read_text()
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", CLI, re.MULTILINE | re.DOTALL))


def words(text: str) -> set[str]:
    """Everything in backticks that is one word."""
    return set(re.findall(r"`([A-Za-z0-9_][A-Za-z0-9_…-]*)`", text))


def first_column(text: str) -> set[str]:
    """The words in the first column of the tables of a section."""
    return {word for row in re.findall(r"^\|([^|]+)\|", text, re.MULTILINE) for word in words(row)}


def leaves(group: Any, path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        inner = f"{path} {name}".strip()
        found |= leaves(command, inner) if hasattr(command, "commands") else {inner: command}
    return found


COMMANDS = leaves(typer.main.get_command(app))


def test_every_command_has_a_section_and_every_section_of_a_command_a_command() -> None:
    others = {"Words in arguments", "Exit codes", "Environment", "JSON"}
    assert set(SECTIONS) - others == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_options_of_a_command_are_those_of_its_section(name: str) -> None:
    options = {word for row in re.findall(r"^\|([^|]+)\|", SECTIONS[name], re.MULTILINE) for word in flags(row)}
    has = {word for option in COMMANDS[name].params if option.param_type_name == "option" for word in option.opts}
    assert options == has - {"--help", "-h"}


def flags(text: str) -> list[str]:
    return re.findall(r"`(--?[a-z-]+)", text)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_section_of_a_command_shows_its_arguments(name: str) -> None:
    usage = re.search(rf"`kvm-backup {name}([^`]*)`", SECTIONS[name])
    assert usage
    has = [argument.metavar for argument in COMMANDS[name].params if argument.param_type_name == "argument"]
    assert re.findall(r"[A-Z]+", usage[1]) == has


def test_the_exit_codes_are_one_table_in_cli_md() -> None:
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    tables = re.findall(r"^\| (\d) \| ([^|]+) \|$", CLI, re.MULTILINE)
    assert {int(code) for code, _ in tables} == codes
    assert len(tables) == len(codes)
    assert dict(tables)["0"] == "done"


def test_the_variables_of_the_environment_are_documented() -> None:
    assert {FILE_VARIABLE, DEBUG_VARIABLE} <= first_column(SECTIONS["Environment"])


def keys_of(model: type) -> set[str]:
    return {field.name for field in fields(model)}


def test_the_keys_of_points_are_documented(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "repository")
    manifest = shelf.add()
    summary = point_summary(LocalStore(shelf.repository), manifest, None, foreign=False)
    assert first_column(SECTIONS["point list"]) == set(summary)
    added = set(point_details(LocalStore(shelf.repository), manifest)) - set(summary)
    assert first_column(SECTIONS["point show"]) == added | {"disks"}


def test_the_keys_of_vms_are_documented() -> None:
    vm = Vm("web", "u", VmState.RUNNING, (Disk("vda", "disk", SourceKind.FILE, "/x", "qcow2"),))
    summary = vm_summary(vm, frozenset(), [])
    assert first_column(SECTIONS["vm list"]) == set(summary)
    told = words(SECTIONS["vm list"])
    assert set(summary["disks"][0]) <= told
    assert {*LeftOut, *VmState} <= told


def test_the_keys_of_schedules_are_documented() -> None:
    made = Schedule("1", "n", ("web",), "daily", "02:00")
    assert first_column(SECTIONS["schedule list"]) == set(summary_of_schedule(made, ZoneInfo("UTC")))
    told = (DOCS / "schedules.md").read_text().partition("## The file")[2].partition("##")[0]
    assert first_column(told) == {*KEYS, *OPTIONAL_KEYS}


def test_the_keys_of_a_repository_and_of_its_check_are_documented(command: Command) -> None:
    [row] = json.loads(command("repository", "list", "--json").output)
    assert first_column(SECTIONS["repository list"]) == set(row)
    assert first_column(SECTIONS["repository check"]) == keys_of(Oddity)


def test_the_keys_and_kinds_of_verify_are_documented() -> None:
    keys_table, kinds_table = SECTIONS["verify"].split("| kind |")
    assert first_column(keys_table) == {"event", "good"} | keys_of(Verdict)
    assert keys_of(Finding) <= words(keys_table)
    source = (DOCS.parent / "src/kvm_backup/services/verify.py").read_text()
    made_here = set(re.findall(r'Finding\(\s*point\.id,[^"]+(?:"manifest\.json", )?"([a-z-]+)"', source))
    unreadable = {errors.DamagedManifestError.code, errors.DamagedPointError.code, errors.StorageError.code}
    assert {"parent-missing", "unreadable"} <= made_here
    assert first_column(kinds_table) == {*DamageKind} | made_here | unreadable | {"changed"}


def test_the_keys_and_reasons_of_a_prune_are_documented() -> None:
    keys_table, reasons_table = SECTIONS["prune"].split("| reason |")
    assert first_column(keys_table) == {"event", "bytes_freed"} | keys_of(Pruned)
    assert keys_of(PointVerdict) <= words(keys_table)
    assert first_column(reasons_table) == {*Keep, "foreign", "future"}


def test_the_keys_of_a_restore_are_documented() -> None:
    assert first_column(SECTIONS["restore"]) == {"event"} | keys_of(Restored)
    assert keys_of(RestoredDisk) <= words(SECTIONS["restore"])


def test_the_keys_of_the_doctor_are_documented() -> None:
    told = words(SECTIONS["doctor"])
    assert keys_of(Check) | keys_of(Remains) | {*Health, "checks", "leftovers"} <= told


def test_the_events_of_a_backup_and_their_keys_are_documented() -> None:
    events_table, rest = SECTIONS["backup"].split("| key of `finished` |")
    rows = dict(re.findall(r"^\| `([a-z]+)` \| (.+) \|$", events_table, re.MULTILINE))
    kinds: dict[str, type[events.Event]] = {kind.name: kind for kind in events.Event.__subclasses__()}
    results: dict[str, type[events.Event]] = {
        "verify": events.PointVerified,
        "restore": events.PointRestored,
        "prune": events.VmPruned,
    }
    for command, result in results.items():
        assert f"| `event` | `{kinds.pop(result.name).name}` |" in SECTIONS[command]
    assert set(rows) == set(kinds)
    for name, kind in kinds.items():
        told = words(rows[name]) | (first_column(rest.split("| reason |")[0]) if name == "finished" else set())
        assert keys_of(kind) - {"vm"} <= told, name
    assert {*events.Step} <= words(rows["step"])


def test_every_reason_for_a_full_backup_is_documented_in_the_programs_words() -> None:
    table = SECTIONS["backup"].split("| reason |")[1]
    told = dict(re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", table, re.MULTILINE))
    assert told == {kind.value: Reason(kind).text for kind in FullReason}


@pytest.mark.parametrize("document", ["README.md", "README.fr.md", "docs/settings.md", "docs/repository-format.md"])
def test_every_command_that_a_document_shows_exists_with_its_options(document: str) -> None:
    shown = re.findall(r"(?:\$ sudo |`|sudo |bin/)kvm-backup ([a-z][^`\n|'#]*)", (DOCS.parent / document).read_text())
    assert shown
    for line in shown:
        name = next((name for name in COMMANDS if f"{line} ".startswith(f"{name} ")), None)
        assert name, line
        has = {word for option in COMMANDS[name].params for word in option.opts} | {"--help"}
        assert {word for word in line.split() if re.match(r"--?[a-z]", word)} <= has, line


# Settings


def settings_of(model: type[BaseModel], path: str = "") -> dict[str, Any]:
    """Every setting by its dotted name, with its default; tables in lists and dicts are followed."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        inner = next((part for part in parts(field.annotation) if issubclass(part, BaseModel)), None)
        if inner is None or field.annotation is not inner:
            found[f"{path}{name}"] = ... if field.is_required() else field.get_default()
        if inner is not None:
            found |= settings_of(inner, f"{path}{name}.")
    return found


def parts(annotation: Any) -> list[type]:
    inner = [part for argument in typing.get_args(annotation) for part in parts(argument)]
    return [*inner, annotation] if isinstance(annotation, type) else inner


def documented_settings() -> dict[str, str]:
    return dict(re.findall(r"^\| `([a-z_.]+)` \| ([^|]+) \|", SETTINGS, re.MULTILINE))


def test_every_setting_is_documented_and_nothing_else() -> None:
    assert set(documented_settings()) == set(settings_of(Settings))
    assert "backup.space_reserve" in documented_settings()


def test_the_documented_defaults_are_those_of_the_program() -> None:
    compared = 0
    for name, default in settings_of(Settings).items():
        told = documented_settings()[name]
        if isinstance(default, bool):
            assert told == f"`{str(default).lower()}`", name
        elif isinstance(default, int | float):
            assert parse_size(told.strip("`")) == default, name
        elif isinstance(default, str):
            assert told == f"`{default}`", name
        elif default is ...:
            assert told == "must be given", name
        elif default is None:
            assert told != "none", name
            continue
        elif name != "state_dir":
            assert not default, name
            assert told == "none", name
        compared += 1
    assert compared > 8


def test_the_example_loads_and_shows_every_table_and_most_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    example = re.search(r"```toml\n(.*?)```", SETTINGS, re.DOTALL)
    assert example
    for name in ("KVM_BACKUP_STATE_DIR", "KVM_BACKUP_LIBVIRT__URI"):
        monkeypatch.delenv(name, raising=False)
    settings = check(tomllib.loads(example[1]), None)
    assert settings.repositories()[settings.default_repository] == Path("/mnt/nas/vms")
    shown = set(re.findall(r"^([a-z_]+) = |^\[+([a-z]+)", example[1], re.MULTILINE))
    names = {part for pair in shown for part in pair if part}
    assert {name for dotted in settings_of(Settings) for name in dotted.split(".")} - names == {
        "state_dir",
        "runtime_dir",
    }


def test_the_variables_shown_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = re.findall(r"`(KVM_BACKUP_[A-Z_]+)='?([^`']+)'?`", SETTINGS)
    assert len(shown) == 3
    for name, value in shown:
        monkeypatch.setenv(name, value)
    settings = check({}, None)
    assert settings.state_dir == Path("/srv/state")
    assert settings.backup.space_reserve == 2 * 1024**3
    assert settings.repositories()["nas"] == Path("/mnt/nas/vms")
