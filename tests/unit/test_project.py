"""What is written about the project agrees with what the project is."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from kvm_backup.domain import errors
from kvm_backup.domain.point import Demotion, LeftOutDisk, Manifest, StoredDisk, StoredFile

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
READMES = [ROOT / "README.md", ROOT / "README.fr.md"]

_FENCED = re.compile(r"^```[a-z]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _commands(document: Path) -> list[str]:
    """What the fenced blocks tell to type, without comments and names in quotes: they are in the document's language.

    In a block that shows output, commands are the lines behind a `$`.
    """
    found = []
    for block in _FENCED.findall(document.read_text()):
        lines = block.splitlines()
        typed = [line for line in lines if line.startswith("$ ")] or lines
        found += [re.sub(r"\s+#.*|\"[^\"]*\"", "", line) for line in typed if not line.startswith("#")]
    return found


def _headings(document: Path) -> list[int]:
    """The level of each heading."""
    prose = _FENCED.sub("", document.read_text())
    return [len(marks) for marks in re.findall(r"^(#+) ", prose, re.MULTILINE)]


def _make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _required(requirements: str) -> set[str]:
    lines = (ROOT / requirements).read_text().splitlines()
    return {line for line in lines if line and not line.startswith(("#", "-"))}


def _locked(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ]+) ", (ROOT / lock).read_text(), re.MULTILINE))


def test_both_readmes_show_the_same_commands() -> None:
    english, french = map(_commands, READMES)
    assert french == english
    assert "make demo" in english


def test_both_readmes_have_the_same_sections() -> None:
    english, french = map(_headings, READMES)
    assert french == english


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_of_a_document_leads_to_a_file(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", _FENCED.sub("", document.read_text()))
    broken = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_make_target_that_a_document_names_exists(document: Path) -> None:
    named = set(re.findall(r"(?:^|`|sudo )make ([a-z][a-z-]*)", document.read_text(), re.MULTILINE))
    assert named <= _make_targets()


def test_every_line_of_make_help_fits_80_columns() -> None:
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line for line in told.splitlines() if len(line) > 80] == []


def test_make_help_lists_every_chore_that_contributors_are_promised() -> None:
    assert _make_targets() >= {"demo", "run", "test", "test-unit", "lint", "format", "bench", "help"}


def test_the_changelog_has_an_entry_for_what_is_in_the_tree() -> None:
    versions = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions
    assert versions[0] in ("Unreleased", PYPROJECT["project"]["version"])


def test_the_licence_file_is_the_licence_of_the_metadata() -> None:
    assert PYPROJECT["project"]["license"] == "Apache-2.0"
    assert (ROOT / "LICENSE").read_text().split()[:4] == ["Apache", "License", "Version", "2.0,"]


def _error_classes() -> list[type[errors.KvmBackupError]]:
    found = (value for value in vars(errors).values() if isinstance(value, type))
    return [error for error in found if issubclass(error, errors.KvmBackupError)]


def test_every_error_is_documented_with_its_code_exit_code_and_meaning() -> None:
    table = re.findall(
        r"^\| `([a-z-]+)` \| (\d) \| (yes|no) \| (.+?) \| .+ \|$", (ROOT / "docs/errors.md").read_text(), re.MULTILINE
    )
    documented = {code: (exit_code, again, meaning) for code, exit_code, again, meaning in table}
    expected = {}
    for error in _error_classes():
        meaning = (error.__doc__ or "").splitlines()[0]
        if error is errors.KvmBackupError:
            meaning = "A failure that has no code of its own."
        expected[error.code] = (str(error.exit_code), "yes" if error.retryable else "no", meaning)
    assert documented == expected


def test_no_two_errors_share_a_code() -> None:
    codes = [error.code for error in _error_classes()]
    assert len(codes) == len(set(codes))


def test_the_requirements_are_those_of_the_metadata() -> None:
    build = set(PYPROJECT["build-system"]["requires"])
    assert _required("requirements.in") == set(PYPROJECT["project"]["dependencies"]) | build
    assert _required("requirements-dev.in") - {"pip-tools"} == set(
        PYPROJECT["project"]["optional-dependencies"]["dev"]
    )


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_every_requirement_is_locked_with_hashes_and_without_addresses(name: str) -> None:
    locked = _locked(f"{name}.lock")
    wanted = {re.split(r"[\[<>=~! ]", line)[0] for line in _required(f"{name}.in")}
    assert wanted <= set(locked)
    text = (ROOT / f"{name}.lock").read_text()
    assert len(re.findall(r"==[^\n]*\\\n    --hash=sha256:", text)) == len(locked)
    assert not re.search(r"(https?|file)://|^-|^[^#\n]* @ |(^|[ =])/", text, re.MULTILINE)


def test_both_locks_agree_on_what_the_product_uses() -> None:
    product, development = _locked("requirements.lock"), _locked("requirements-dev.lock")
    assert product
    assert {name: development.get(name) for name in product} == product


def _stops_at_once(script: str) -> bool:
    # On a server there may be no bash, and sh knows no pipefail.
    return ("\nset -efu\n" if script.startswith("#!/bin/sh\n") else "\nset -euo pipefail\n") in script


def test_every_script_is_executable_and_stops_at_the_first_failure() -> None:
    scripts = [
        path for path in [*ROOT.glob("scripts/*"), ROOT / ".ci/run"] if path.is_file() and path.suffix != ".sh"
    ]
    assert scripts
    careless = [
        path.name for path in scripts if not path.stat().st_mode & 0o111 or not _stops_at_once(path.read_text())
    ]
    assert careless == []


@pytest.mark.parametrize("model", [Manifest, StoredDisk, StoredFile, LeftOutDisk, Demotion])
def test_every_field_of_a_manifest_is_in_the_description_of_the_format(model: type[BaseModel]) -> None:
    described = set(re.findall(r"`([a-z_0-9]+)`", (ROOT / "docs/repository-format.md").read_text()))
    assert set(model.model_fields) - described == set()
