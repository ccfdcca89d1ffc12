"""Which language the texts are in, and that every text has its French one."""

import ast
import copy
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po
from jinja2 import Environment
from jinja2.nodes import Call, Name

from kvm_backup.cli.language import language
from kvm_backup.domain.phrase import listed, phrase
from kvm_backup.language import CATALOGUE, LANGUAGES, LOCALE, told, translations
from tests.unit.cli.conftest import Command

SOURCE = Path(__file__).parents[3] / "src" / "kvm_backup"
ARGUMENTS = {"_": 1, "phrase": 1, "ngettext": 2}
"""How many texts each function takes."""
HELP_TEXTS = """
import json
import typer.main
from kvm_backup.cli.main import app
from kvm_backup.cli.program import paragraphs

def texts(command):
    context = command.make_context("x", [], resilient_parsing=True)
    yield from paragraphs(command.help) + paragraphs(command.epilog)
    for parameter in command.get_params(context):
        yield from paragraphs(parameter.help)
    for inner in getattr(command, "commands", {}).values():
        yield from texts(inner)

print(json.dumps(list(texts(typer.main.get_command(app)))))
"""


def messages_in_the_source() -> set[str | tuple[str, str]]:
    """The texts handed to `_`, `ngettext` and `phrase`; each must be written out, or nobody could find it."""
    found: set[str | tuple[str, str]] = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ARGUMENTS:
                texts = [ast.literal_eval(argument) for argument in node.args[: ARGUMENTS[node.func.id]]]
                found.add(texts[0] if len(texts) == 1 else (texts[0], texts[1]))
    return found


def phrases() -> set[str]:
    """The templates of errors and the like that are long enough to be known again."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "phrase":
                found.add(ast.literal_eval(node.args[0]))
    return {text for text in found if len(re.sub("{[^}]*}", "", text)) >= 10 and " " in text.strip()}


def messages_in_the_templates() -> set[str | tuple[str, ...]]:
    """The same in the pages."""
    found: set[str | tuple[str, ...]] = set()
    for path in SOURCE.rglob("*.html"):
        tree = Environment().parse(path.read_text())
        for call in tree.find_all(Call):
            if isinstance(call.node, Name) and call.node.name in ARGUMENTS:
                texts = tuple(argument.as_const() for argument in call.args[: ARGUMENTS[call.node.name]])
                found.add(texts[0] if len(texts) == 1 else texts)
    return found


def texts_of_the_help() -> set[str]:
    """The paragraphs of every command's help, which are docstrings and options rather than calls of `_`."""
    environment = os.environ | {"KVM_BACKUP_LANG": "en"}
    shown = subprocess.run(
        [sys.executable, "-c", HELP_TEXTS], env=environment, capture_output=True, check=True, text=True
    )
    return set(json.loads(shown.stdout))


def french() -> Catalog:
    with (LOCALE / "fr" / CATALOGUE).open("rb") as source:
        return read_po(source, locale="fr", abort_invalid=True)


def test_every_text_has_its_french_one_and_no_other_is_kept() -> None:
    catalogue = {message.id for message in french() if message.id}
    assert len(catalogue) > 50
    assert catalogue == messages_in_the_source() | messages_in_the_templates() | texts_of_the_help()


def test_no_french_text_is_empty_or_uncertain_or_lacks_a_placeholder() -> None:
    for message in french():
        originals = message.id if isinstance(message.id, tuple) else (message.id,)
        texts = message.string if isinstance(message.string, tuple) else (message.string,)
        if not message.id:
            continue
        assert not message.fuzzy, message.id
        for original, text in zip(map(str, originals), map(str, texts), strict=True):
            assert text, message.id
            assert set(re.findall(r"{[^}]+}", text)) == set(re.findall(r"{[^}]+}", original)), message.id


def test_french_has_its_narrow_no_break_spaces_before_tall_punctuation_and_inside_quotation_marks() -> None:
    for message in french():
        texts = message.string if isinstance(message.string, tuple) else (message.string,)
        for text in map(str, texts):
            assert re.findall(r".{0,9}(?: [;:!?»]|« )", text) == [], message.id


def test_the_help_is_in_french_down_to_its_headings(command: Command) -> None:
    shown = command("run", "list", "--help", KVM_BACKUP_LANG="fr", COLUMNS="80").output
    assert shown.startswith("Utilisation\u202f: kvm-backup run list [OPTIONS]\n")
    assert "Afficher cette aide." in shown
    assert "[par défaut\u202f: 50]" in shown


def test_every_language_of_the_tree_is_installed_with_the_program() -> None:
    assert {path.name for path in LOCALE.iterdir()} == set(LANGUAGES) - {"en"}
    assert '"locale/*/LC_MESSAGES/*.po"' in (SOURCE.parents[1] / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "en"),
        ({"LANG": "fr_FR.UTF-8"}, "fr"),
        ({"LANG": "fr"}, "fr"),
        ({"LANG": "fr.UTF-8"}, "fr"),
        ({"LANG": "fr-CD"}, "fr"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "frr_DE.UTF-8"}, "en"),
        ({"LANG": "fr_FR.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "C", "LC_MESSAGES": "fr_BE.UTF-8"}, "fr"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "en_US.UTF-8", "KVM_BACKUP_LANG": "fr"}, "fr"),
        ({"LANG": "fr_FR.UTF-8", "KVM_BACKUP_LANG": "en"}, "en"),
        ({"LANG": "fr_FR.UTF-8", "LC_ALL": ""}, "fr"),
    ],
)
def test_the_first_variable_that_is_set_decides(environment: dict[str, str], expected: str) -> None:
    assert language(environment) == expected


def test_plurals_are_french() -> None:
    texts = translations("fr")
    forms = [texts.ngettext("{count} day", "{count} days", count) for count in (0, 1, 2)]
    assert forms == ["{count} jour", "{count} jour", "{count} jours"]


def test_clauses_are_parted_as_the_language_does() -> None:
    said = listed("; ", phrase("running"), phrase("{name} is no setting and has no effect", name="X"))
    assert told(said, "en") == "running; X is no setting and has no effect"
    assert told(said, "fr") == "en cours\u202f; X n'est pas un réglage et n'a aucun effet"
    stored = listed("; ", *(phrase("{name} is no setting and has no effect", name=name) for name in "XY"))
    assert told(str(stored), "fr") == told(stored, "fr")


def test_a_phrase_is_english_everywhere_but_where_it_is_told() -> None:
    said = phrase("every {weekday} at {time}", weekday=phrase("Monday"), time="{0.__class__}")
    assert said == "every Monday at {0.__class__}"
    assert told(said, "en") == said
    assert told(said, "fr") == "chaque lundi à {0.__class__}"


def test_a_copy_of_a_phrase_is_the_english_text_alone() -> None:
    said = phrase("every day at {time}", time="02:00")
    copies = (copy.deepcopy(said), pickle.loads(pickle.dumps(said)), json.loads(json.dumps(said)), str(said))
    assert {(type(one), one) for one in copies} == {(str, "every day at 02:00")}


def test_a_phrase_that_was_stored_as_its_english_text_is_told_in_french_again() -> None:
    said = phrase(
        "{field} cannot be used: {problem}",
        field=phrase("every {weekday} at {time}", weekday="Monday", time="02:00"),
        problem="a.b*c (?P<x>",
    )
    assert told(str(said), "fr") == told(said, "fr") != str(said)
    assert told(str(said), "en") == str(said)


@pytest.mark.parametrize("text", ["name", "web", "", "a text that is in no catalogue", "in the beginning"])
def test_a_stored_text_that_was_no_phrase_stays_as_it_is(text: str) -> None:
    assert told(text, "fr") == text


def test_every_phrase_is_found_again_by_its_english_text() -> None:
    for template in sorted(phrases()):
        places = re.findall(r"{(\w+)([^}]*)}", template)
        said = phrase(
            template, **{name: number if ":" in how else str(number) for number, (name, how) in enumerate(places)}
        )
        assert told(str(said), "fr") == told(said, "fr"), template
