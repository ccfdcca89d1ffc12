"""What commands say to a French user: tables, results, errors; never the JSON."""

import json
import re
from pathlib import Path

import pytest

from kvm_backup.database.engine import Database, sqlite_url
from kvm_backup.database.history import History
from kvm_backup.domain.errors import NoSpaceError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState, Trigger
from kvm_backup.language import told
from kvm_backup.services.events import Step
from tests.unit.builders import Shelf
from tests.unit.cli.conftest import Command
from tests.unit.runtime.conftest import Clock

ADD = ("schedule", "add", "Nuit", "--vms", "web", "--type", "daily")


@pytest.fixture
def french(command: Command) -> Command:
    command.environment |= {"TZ": "Europe/Paris", "KVM_BACKUP_LANG": "fr"}
    return command


def begun_run(tmp_path: Path, mode: Mode) -> History:
    """The history that the commands read, with one run of this mode, r1, that goes on."""
    history = History(Database.open(sqlite_url(tmp_path / "state" / "kvm-backup.db")), Clock())
    history.create(
        Run(
            id="r1",
            vm_name="web",
            kind=RunKind.BACKUP,
            trigger=Trigger.COMMAND,
            host="alpha",
            repository="default",
            requested_mode=mode,
            state=RunState.QUEUED,
            created=Clock().now,
        )
    )
    history.start("r1")
    return history


@pytest.mark.parametrize(
    ("words", "cause", "hint"),
    [
        (("schedule", "show", "abc"), "aucune planification n'a l'identifiant ni le nom 'abc'", "schedule list"),
        ((*ADD, "--time", "25:00"), "heure\u202f: '25:00' ne convient pas", "Attendu"),
        ((*ADD, "--time", "02:00", "--repository", "nas"), "'nas'", "Attendu"),
        ((*ADD, "--time", "02:00", "--keep-daily", "x"), "'x'", "un nombre de 0 à 10000"),
        ((*ADD, "--time", "02:00", "--mode", "x"), "'x'", "Attendu"),
        ((*ADD, "--time"), "L'option '--time' demande une valeur.", "--help"),
        (("schedule", "add", "x", "--type", "daily", "--time", "2:00"), "Il manque l'option '--vms'.", "--help"),
        (("schedule", "edit", "x"), "aucune modification n'a été demandée", "Rien n'a été modifié."),
        (("run", "show", "abc"), "il n'y a pas d'exécution 'abc'", "kvm-backup run list"),
        (("run", "cancel", "abc"), "il n'y a pas d'exécution 'abc'", "kvm-backup run list"),
        (("run", "list", "--state", "x"), "Valeur non valable pour '--state'\u202f: 'x' n'est pas", "--help"),
        (("run", "list", "--limit", "0"), "la valeur doit être supérieure ou égale à 1", "--help"),
        (("prune",), "nommez les VM à élaguer, ou donnez --all", "kvm-backup point list"),
        (("prune", "web", "-r", "nas"), "aucun dépôt ne s'appelle 'nas'", "Configurés"),
        (("backup",), "nommez les VM à sauvegarder", "kvm-backup vm list"),
        (("vm", "list"), "libvirt est injoignable", "Vérifiez que libvirtd fonctionne"),
    ],
)
def test_errors_and_their_hints_are_french(french: Command, words: tuple[str, ...], cause: str, hint: str) -> None:
    refused = french(*words)
    assert refused.status != 0
    first, second = refused.error.splitlines()[-2:]
    assert first.startswith("erreur\u202f: ")
    assert cause in first
    assert second.startswith("CONSEIL\u202f: ")
    assert hint in second


def test_a_damaged_file_of_schedules_is_told_with_its_place(french: Command, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "scheduled_backups.json").write_text('[{"id": 5}]')
    refused = french("schedule", "list")
    assert "ligne 1, colonne 2\u202f: planification 1\u202f: la clé 'name' manque" in refused.error


def test_a_run_is_shown_in_french_with_the_error_that_the_history_keeps_in_english(
    french: Command, tmp_path: Path
) -> None:
    history = begun_run(tmp_path, Mode.FULL)
    error = NoSpaceError(
        phrase("no space left while writing {path}", path="/srv/été"), hint=phrase("Restore another point.")
    )
    history.finish("r1", RunState.FAILED, RunResult(error=error.message, error_code=error.code, hint=error.hint))
    listed = french("run", "list").output
    for word in ("EXÉCUTION", "ÉTAT", "échec", "sauvegarde", "plus de place pendant l'écriture de /srv/été"):
        assert word in listed
    shown = french("run", "show", "r1").output
    for line in (
        "demandée par   ligne de commande",
        "erreur         plus de place",
        "conseil        Restaurez un autre",
    ):
        assert line in shown
    shown_json = json.loads(french("run", "show", "r1", "--json").output)
    assert shown_json["error"] == "no space left while writing /srv/été"
    assert shown_json["state"] == "failed"


@pytest.mark.parametrize(("size", "shown"), [("388.3 KiB", "388,3 Kio"), ("0 B", "0 o"), ("1.5 GiB", "1,5 Gio")])
def test_sizes_in_what_the_history_keeps_have_french_units(size: str, shown: str) -> None:
    said = phrase("points shipped: {count}, {sent} sent", count=2, sent=size)
    assert told(said, "fr") == told(str(said), "fr") == f"points envoyés\u202f: 2, {shown} transmis"
    assert told(said, "en") == said


def test_points_and_what_a_prune_would_do_are_shown_in_french(french: Command, shelf: Shelf) -> None:
    full = shelf.add()
    shelf.add(full)
    assert french("point", "list").output.split()[:4] == ["POINT", "MODE", "COHÉRENCE", "ENREGISTRÉ"]
    assert " Kio" in french("point", "show", full.id).output
    preview = french("prune", "web", "--dry-run", KVM_BACKUP_RETENTION__LAST="1").output
    assert "web dans le dépôt default" in preview
    assert f"- {full.id}\n    part\n" in preview
    assert "gardé\u202f: l'un des plus récents, jour 2026-11-22" in preview
    assert "points à conserver\u202f: 1, à supprimer\u202f: 1, à rendre complets\u202f: 1\u202f; environ" in preview
    as_json = json.loads(french("prune", "web", "--dry-run", "--json", KVM_BACKUP_RETENTION__LAST="1").output)
    assert as_json["points"][0]["explanation"] == "goes"


def test_modes_and_consistency_are_french_in_tables_and_english_in_json(french: Command, shelf: Shelf) -> None:
    child = shelf.add(shelf.add())
    rows = [line.split()[1:3] for line in french("point", "list").output.splitlines()[1:]]
    assert rows == [["complète", "fichiers"], ["incrémentielle", "fichiers"]]
    assert {(row["mode"], row["consistency"]) for row in json.loads(french("point", "list", "--json").output)} == {
        ("full", "filesystem"),
        ("incremental", "filesystem"),
    }
    shown = french("point", "show", child.id).output
    assert "incremental" not in shown
    assert re.search(r"^vda +incrémentielle ", shown, re.MULTILINE)
    added = french(*ADD, "--time", "02:00", "--mode", "full").output
    assert "sauvegarde complète\u202f: web" in added
    for words in (("schedule", "list"), ("schedule", "show", "Nuit")):
        assert "complète" in french(*words).output
    [schedule] = json.loads(french("schedule", "list", "--json").output)
    assert schedule["backup_mode"] == "full"


def test_steps_of_a_run_and_the_mode_that_was_asked_for_are_french(french: Command, tmp_path: Path) -> None:
    history = begun_run(tmp_path, Mode.INCREMENTAL)
    steps = ["before", *Step, "after"]
    for step in steps:
        history.step_started("r1", step)
    shown = french("run", "show", "r1").output
    assert "mode           incrémentielle (demandée)" in shown
    assert not {line.split()[0] for line in shown.splitlines()} & {*steps}
    for word in ("script avant", "préparation", "copie", "publication", "envoi", "rapatriement"):
        assert re.search(f"^{word} +20", shown, re.MULTILINE), shown
    assert "incrémentielle" in french("run", "list").output
    history.finish("r1", RunState.SUCCEEDED, RunResult())
    assert "est déjà terminée\u202f: réussie\n" in french("run", "cancel", "r1").error


def test_nothing_to_show_tells_what_to_do_first(french: Command, shelf: Shelf) -> None:
    assert "Aucune exécution. Pour en lancer une\u202f: kvm-backup backup VM" in french("run", "list").output
    assert "Aucun point de restauration. Pour en faire un\u202f:" in french("point", "list").output
