"""Several values after --vms and --ship-to."""

import pytest

from kvm_backup.cli.several import expand
from kvm_backup.domain.errors import InvalidScheduleError


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("add N --vms a b --type daily", "add N --vms=a --vms=b --type daily"),
        ("schedule add N --vms a b --type daily", "schedule add N --vms=a --vms=b --type daily"),
        ("add --vms a --type daily N", "add --vms=a --type daily N"),
        ("add N --vms=a --type daily", "add N --vms=a --type daily"),
        ("add N --vms a b --mode full --vms c", "add N --vms=a --vms=b --mode full --vms=c"),
        ("add N --type daily --vms a -- -b --c", "add N --type daily --vms=a --vms=-b --vms=--c"),
        ("add N --vms -- -a", "add N --vms=-a"),
        ("add --type daily --vms=a -- -N", "add --type daily --vms=a -- -N"),
        ("add --type daily -- --vms", "add --type daily -- --vms"),
        ("add N --vms - --json", "add N --vms=- --json"),
        ("edit 1a --vms a b", "edit 1a --vms=a --vms=b"),
        ("add N --vms a --ship-to b c --json", "add N --vms=a --ship-to=b --ship-to=c --json"),
        ("edit 1a --ship-to none", "edit 1a --ship-to=none"),
        ("backup --vms a b", "backup --vms a b"),
        ("schedule list --vms a b", "schedule list --vms a b"),
        ("", ""),
    ],
)
def test_each_value_gets_its_flag(written: str, expected: str) -> None:
    assert expand(written.split()) == expected.split()


def test_values_are_taken_as_they_are() -> None:
    assert expand(["add", "N", "--vms", "a b", "", "é=1"]) == ["add", "N", "--vms=a b", "--vms=", "--vms=é=1"]


@pytest.mark.parametrize("written", ["add N --vms", "add N --vms --type daily", "edit 1 --vms --", "edit 1 --vms -j"])
def test_a_flag_without_a_value_is_an_error(written: str) -> None:
    with pytest.raises(InvalidScheduleError) as caught:
        expand(written.split())
    assert caught.value.field == "vm_names"


def test_the_error_names_the_flag_that_has_none() -> None:
    with pytest.raises(InvalidScheduleError, match="ship_to") as caught:
        expand(["edit", "1", "--vms", "a", "--ship-to"])
    assert "--ship-to" in caught.value.hint
