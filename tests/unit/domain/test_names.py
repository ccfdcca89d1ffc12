"""Names on disk: whatever a VM is called, its folder is one plain name in the repository."""

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvm_backup.domain.names import (
    FILE_PATTERN,
    FOLDER_PATTERN,
    POINT_ID_PATTERN,
    checkpoint_name,
    disk_file,
    is_checkpoint_of,
    is_stamp,
    is_uuid,
    parse_stamp,
    stamp,
    vm_folder,
)

UUID = "1a2b3c4d-0000-4000-8000-000000000001"


@given(st.text())
@example("")
@example("..")
@example("../../etc")
@example("/")
@example(".partial-x")
@example("-rf")
@example("a\nb\0c")
@example("é" * 300)
@example("x" * 5000)
@example("\ud800")
def test_the_folder_of_any_name_is_one_plain_short_name(name: str) -> None:
    for folder in (vm_folder(name, UUID), vm_folder(name, UUID, whole_uuid=True)):
        assert re.fullmatch(FOLDER_PATTERN, folder)
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+=@-]*", folder)
        assert len(folder.encode()) <= 255
    assert vm_folder(name, UUID).endswith(f"--{UUID[:8]}")
    assert vm_folder(name, UUID, whole_uuid=True).endswith(f"--{UUID}")
    assert vm_folder(name, UUID) == vm_folder(name, UUID)


def test_an_ordinary_name_is_kept() -> None:
    assert vm_folder("web-01.example_com", UUID) == "web-01.example_com--1a2b3c4d"


def test_other_characters_become_an_underscore_each() -> None:
    assert vm_folder("my vm/é", UUID) == "my_vm__--1a2b3c4d"


@pytest.mark.parametrize(
    "folder",
    [
        "",
        ".",
        "..",
        "web",
        "web--",
        "web--1A2B3C4D",
        "web--1a2b3c4",
        "../web--1a2b3c4d",
        "web--1a2b3c4d/",
        "--1a2b3c4d",
    ],
)
def test_what_is_no_vm_folder_is_not_taken_for_one(folder: str) -> None:
    assert not re.fullmatch(FOLDER_PATTERN, folder)


MOMENTS = st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


@given(MOMENTS, MOMENTS)
def test_stamps_name_the_second_and_sort_like_time(first: datetime, second: datetime) -> None:
    assert is_stamp(stamp(first))
    assert parse_stamp(stamp(first)) == first.replace(microsecond=0)
    if first.replace(microsecond=0) < second.replace(microsecond=0):
        assert stamp(first) < stamp(second)


def test_a_stamp_is_in_utc_whatever_the_zone() -> None:
    paris = timezone(timedelta(hours=2))
    assert stamp(datetime(2026, 7, 1, 1, 30, tzinfo=paris)) == "20260630T233000Z"


@pytest.mark.parametrize(
    "name",
    ["", "20261122", "20261122T020000", "20261322T020000Z", "20261122T250000Z", "20261122T020000Z\n", "lost+found"],
)
def test_what_is_no_time_is_no_stamp(name: str) -> None:
    assert not is_stamp(name)


def test_a_checkpoint_belongs_to_the_repository_that_it_names() -> None:
    name = checkpoint_name("99999999-0000-4000-8000-000000000009", "20261122T020000Z")
    assert is_checkpoint_of(name, "99999999-0000-4000-8000-000000000009")
    assert not is_checkpoint_of(name, "88888888-0000-4000-8000-000000000009")
    assert not is_checkpoint_of(f"{name}-mine", "99999999-0000-4000-8000-000000000009")
    assert not is_checkpoint_of("before-upgrade", "99999999-0000-4000-8000-000000000009")


def test_ids_and_files_made_here_are_accepted_when_they_are_read() -> None:
    assert re.fullmatch(POINT_ID_PATTERN, f"{vm_folder('web', UUID)}/{stamp(datetime(2026, 1, 1, tzinfo=UTC))}")
    assert re.fullmatch(FILE_PATTERN, disk_file("vda"))


@pytest.mark.parametrize("text", [UUID, UUID.upper()])
def test_a_uuid_is_known_in_small_letters_and_capitals(text: str) -> None:
    assert is_uuid(text)


@pytest.mark.parametrize("text", ["", "web", UUID[:-1], UUID.replace("-", ""), f"{{{UUID}}}", f"urn:uuid:{UUID}"])
def test_what_is_written_otherwise_is_no_uuid_but_may_be_a_vms_name(text: str) -> None:
    assert not is_uuid(text)
