"""Which language the texts are in, and that every text has its French one."""

import ast
import re
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po

from kvm_backup.cli.language import CATALOGUE, LOCALE, language, translations

SOURCE = Path(__file__).parents[3] / "src" / "kvm_backup"


def messages_in_the_source() -> set[str | tuple[str, str]]:
    """The texts handed to `_` and `ngettext`; each must be written out, or nobody could find it."""
    found: set[str | tuple[str, str]] = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("_", "ngettext"):
                texts = [ast.literal_eval(argument) for argument in node.args[: 1 if node.func.id == "_" else 2]]
                found.add(texts[0] if len(texts) == 1 else (texts[0], texts[1]))
    return found


def french() -> Catalog:
    with (LOCALE / "fr" / CATALOGUE).open("rb") as source:
        return read_po(source, locale="fr", abort_invalid=True)


def test_every_text_has_its_french_one_and_no_other_is_kept() -> None:
    catalogue = {message.id for message in french() if message.id}
    assert len(catalogue) > 50
    assert catalogue == messages_in_the_source()


def test_no_french_text_is_empty_or_uncertain_or_lacks_a_placeholder() -> None:
    for message in french():
        originals = message.id if isinstance(message.id, tuple) else (message.id,)
        texts = message.string if isinstance(message.string, tuple) else (message.string,)
        if not message.id:
            continue
        assert not message.fuzzy, message.id
        for original, text in zip(map(str, originals), map(str, texts), strict=True):
            assert text, message.id
            assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", original)), message.id


def test_every_language_of_the_tree_is_installed_with_the_program() -> None:
    assert [path.name for path in LOCALE.iterdir()] == ["fr"]
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
