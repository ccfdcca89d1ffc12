"""docs/alerts.md names every kind of alert, and what it tells programs."""

import re
from pathlib import Path

from kvm_backup.domain.alert import AlertKind
from kvm_backup.domain.protection import Protection

DOCUMENT = (Path(__file__).parents[3] / "docs" / "alerts.md").read_text()


def section(title: str) -> str:
    return DOCUMENT.split(f"## {title}\n")[1].split("\n## ")[0]


def first_column(title: str) -> list[str]:
    cells = re.findall(r"^\| (`.+?`) \|", section(title), re.MULTILINE)
    return [word for cell in cells for word in re.findall(r"`([a-z-]+)`", cell)]


def test_every_kind_is_described_once_with_its_facts() -> None:
    kinds = sorted(kind.value for kind in AlertKind)
    assert sorted(first_column("Kinds")) == kinds
    assert sorted(first_column("In the API")) == kinds


def test_every_word_for_how_a_vm_is_protected_is_explained() -> None:
    assert sorted(first_column("Late and overdue")) == sorted(word.value for word in Protection)
