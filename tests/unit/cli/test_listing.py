"""Tables on screens of every width: nothing that a row holds is cut."""

from io import StringIO

import pytest
from rich.console import Console

from kvm_backup.cli.listing import Listing

COLUMNS = [("ID", "left"), ("NAME", "fold"), ("WHEN", "left"), ("STORED", "right"), ("ERROR", "fold")]
ROWS = [
    ["7c2450e7", "Nightly", "every day at 02:00", "1.0 GiB", ""],
    ["45651fa1", "Web and database", "every Sunday at 03:00", "", "[red]the disk of the repository is full[/red]"],
]


def shown(width: int, columns: list[tuple[str, str]] = COLUMNS, rows: list[list[str]] = ROWS) -> list[str]:
    output = StringIO()
    Console(file=output, width=width, soft_wrap=True, highlight=False).print(Listing(columns, rows))
    return [line.rstrip() for line in output.getvalue().splitlines()]


def test_where_all_columns_fit_a_row_is_a_line_under_its_titles() -> None:
    lines = shown(120)
    assert lines[0].split() == ["ID", "NAME", "WHEN", "STORED", "ERROR"]
    assert lines[2].startswith("45651fa1  Web and database  every Sunday at 03:00")
    assert lines[2].endswith("the disk of the repository is full")
    assert len(lines) == 3


def test_a_column_that_may_be_broken_is_broken_before_rows_become_blocks() -> None:
    lines = shown(90)
    assert lines[0].split() == ["ID", "NAME", "WHEN", "STORED", "ERROR"]
    assert "every Sunday at 03:00" in lines[2]
    assert len(lines) > 3


def test_where_the_columns_do_not_fit_a_row_is_a_block_with_titles_before_its_values() -> None:
    assert shown(50) == [
        "7c2450e7  Nightly",
        "    WHEN every day at 02:00  STORED 1.0 GiB",
        "45651fa1  Web and database",
        "    WHEN every Sunday at 03:00",
        "    ERROR the disk of the repository is full",
    ]


@pytest.mark.parametrize("width", range(1, 131, 3))
def test_every_word_of_every_row_is_there_at_every_width(width: int) -> None:
    text = " ".join(shown(width))
    for row in ROWS:
        for value in row[:4]:
            assert [word for word in value.split() if word not in text] == []


def test_a_value_of_a_block_that_is_longer_than_the_screen_is_broken_between_words() -> None:
    assert shown(30)[-3:] == [
        "    WHEN every Sunday at 03:00",
        "    ERROR the disk of the",
        "    repository is full",
    ]


def test_a_word_that_is_longer_than_the_screen_stays_whole() -> None:
    path = "/srv/" + "a-long-name/" * 8
    lines = shown(40, [("ID", "left"), ("STATE", "left"), ("PATH", "left")], [["7c2450e7", "unusable", path]])
    assert lines == ["7c2450e7  unusable", f"    PATH {path}"]


def test_the_lines_of_a_cell_stand_side_by_side_in_a_block() -> None:
    rows = [["web", "running", "vda qcow2 64.0 MiB\nvdb raw 1.0 GiB"]]
    lines = shown(45, [("VM", "fold"), ("STATE", "left"), ("DISKS OF THE VM, ALL OF THEM, IN ORDER", "left")], rows)
    assert lines[0] == "web  running"
    assert "vda qcow2 64.0 MiB, vdb" in " ".join(" ".join(lines).split())


def test_a_row_whose_first_cells_do_not_fit_in_one_line_begins_with_the_first_alone() -> None:
    name = "a-machine-with-a-long-name"
    lines = shown(30, [("POINT", "left"), ("MODE", "left")], [[name, "incremental"]])
    assert lines == [name, "    MODE incremental"]
