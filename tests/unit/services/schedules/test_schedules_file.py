"""scheduled_backups.json: shared by processes, hostile, damaged, of the first version."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from kvm_backup.domain.errors import SchedulesFileError, StorageError
from kvm_backup.domain.point import Mode
from kvm_backup.domain.retention import RetentionWish
from kvm_backup.domain.schedule import Schedule, ScheduleStatus
from kvm_backup.services.schedules.file import FILE_NAME, ScheduleFile
from kvm_backup.services.schedules.format import BYTES_MAX

PARIS = ZoneInfo("Europe/Paris")
HAMMER = Path(__file__).with_name("hammer.py")
PROCESSES = 8
ROUNDS = 4

KILLED_BEFORE_THE_RENAME = """
import os, signal, sys
from pathlib import Path
from zoneinfo import ZoneInfo
from kvm_backup.repository import durable
from kvm_backup.services.schedules.file import ScheduleFile
durable.rename = lambda old, new: os.kill(os.getpid(), signal.SIGKILL)
ScheduleFile(Path(sys.argv[1]), ZoneInfo("UTC")).update(lambda _: [])
"""

FIRST_VERSION = [
    {
        "id": "3f2b8c1e-0c5e-4b43-9d3c-5f5f3b1f9a10",
        "name": "Nuit été",
        "vm_names": ["web", "db"],
        "schedule_type": "weekly",
        "schedule_time": "dimanche:03:00",
        "backup_mode": "incremental",
        "enabled": True,
        "last_run": "2026-10-25T02:30:00",
        "next_run": "2026-11-22T03:00:00.123456",
        "status": "completed",
        "created_at": "2026-07-01T12:00:00",
        "colour": {"of": ["our", 1.5, None]},
    }
]


def entry(**changes: object) -> dict[str, object]:
    return {
        "id": "1a2b3c4d",
        "name": "Nightly",
        "vm_names": ["web"],
        "schedule_type": "daily",
        "schedule_time": "02:00",
        **changes,
    }


@pytest.fixture
def file(tmp_path: Path) -> ScheduleFile:
    return ScheduleFile(tmp_path, PARIS)


def write(file: ScheduleFile, content: object) -> bytes:
    """Put a content in place as an editor would."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    file.path.write_bytes(text)
    return text


def made(number: int) -> Schedule:
    return Schedule(f"{number:032x}", f"schedule {number}", ("web",), "daily", "02:00")


def test_without_a_file_there_are_no_schedules(file: ScheduleFile) -> None:
    assert file.read() == ()
    assert not file.path.exists()


def test_a_file_of_the_first_version_is_read_in_the_zone(file: ScheduleFile) -> None:
    write(file, FIRST_VERSION)
    [schedule] = file.read()
    assert schedule.name == "Nuit été"
    assert schedule.vm_names == ("web", "db")
    assert schedule.backup_mode is Mode.INCREMENTAL
    assert schedule.last_run == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)  # the first of two 02:30
    assert schedule.next_run == datetime(2026, 11, 22, 2, 0, 0, 123456, tzinfo=UTC)
    assert schedule.created_at == datetime(2026, 7, 1, 10, 0, tzinfo=UTC)
    assert schedule.status is ScheduleStatus.SCHEDULED


def test_a_change_keeps_unknown_keys_and_writes_times_in_utc(file: ScheduleFile) -> None:
    write(file, FIRST_VERSION)
    file.update(lambda schedules: [replace(schedules[0], name="Nuit d'hiver", next_run=None)])
    [written] = json.loads(file.path.read_text())
    assert written == FIRST_VERSION[0] | {
        "name": "Nuit d'hiver",
        "next_run": None,
        "last_run": "2026-10-25T00:30:00+00:00",
        "created_at": "2026-07-01T10:00:00+00:00",
        "status": "scheduled",
    }


def test_what_was_written_is_read_again(file: ScheduleFile) -> None:
    when = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
    whole = replace(
        made(1),
        vm_names=("a b", "été", "-x"),
        backup_mode=Mode.SNAPSHOT,
        enabled=False,
        last_run=when,
        next_run=when,
        created_at=when,
        status=ScheduleStatus.FAILED,
        repository="/mnt/été",
        pre_script=("/bin/before", "", "a b"),
        post_script=("after",),
        retention=RetentionWish(last=24, yearly=0),
        ship_to=("nas", "away"),
        extra={"half": "\ud800", "deep": [{"x": [1, 2.5]}]},
    )
    file.update(lambda _: [whole, made(2)])
    assert ScheduleFile(file.path.parent, PARIS).read() == (whole, made(2))
    assert '"next_run": "2026-11-22T02:00:00+00:00"' in file.path.read_text()


def test_what_a_schedule_says_of_repository_scripts_and_retention_is_written_only_where_it_says_something(
    file: ScheduleFile,
) -> None:
    options = {
        "repository": "nas",
        "pre_script": ["/bin/before", "web"],
        "post_script": ["/bin/after"],
        "retention": {"daily": 30, "yearly": 0},
    }
    write(file, [entry(**options), entry(id="2"), entry(id="3", repository=None, pre_script=[], retention={})])
    file.update(lambda schedules: [replace(schedule, enabled=False) for schedule in schedules])
    told, *untold = json.loads(file.path.read_text())
    assert {key: told[key] for key in options} == options
    for written in untold:
        assert not options.keys() & written.keys()


def test_remotes_are_written_when_there_are_none_too_and_not_where_nothing_is_said(file: ScheduleFile) -> None:
    write(file, [entry(ship_to=["nas"]), entry(id="2", ship_to=[]), entry(id="3", ship_to=None), entry(id="4")])
    file.update(lambda schedules: [replace(schedule, enabled=False) for schedule in schedules])
    assert [schedule.ship_to for schedule in file.read()] == [("nas",), (), None, None]
    written = json.loads(file.path.read_text())
    assert [one.get("ship_to", "nothing") for one in written] == [["nas"], [], "nothing", "nothing"]


@pytest.mark.parametrize(
    ("content", "place", "problem"),
    [
        (b"", "line 1 column 1", "is empty"),
        (b" \n", "line 1 column 1", "is empty"),
        (b'[\n  {"id": 1,,}\n]', "line 2 column 12", "is not JSON"),
        (b"[\n", "line 2 column 1", "is not JSON"),
        (b'[\n{"a": 1}\n]x', "line 3 column 2", "is not JSON"),
        (b'[\n "\xff"]', "line 2 column 3", "is not UTF-8"),
        (b"{}", "line 1 column 1", "an object where a list"),
        (b'{"schedules": []}', "line 1 column 1", "an object where a list"),
        (b"null", "line 1 column 1", "null where a list"),
        (b'[\n\n {"NaN": "NaN", "x": NaN}]', "line 3 column 22", "NaN is no JSON"),
        (b'[{"x": -Infinity}]', "line 1 column 8", "-Infinity is no JSON"),
        (b'[\n{"x": 1e999}]', "line 2 column 7", "too large"),
        (b'[\n{"x": ' + b"9" * 5000 + b"}]", "line 2 column 7", "a small whole number is expected"),
        (b'[{"id": "a", "id": "b"}]', "line 1 column", "stands twice"),
        (b"[" * 100_000, "", "nested too deeply"),
        # Deep enough to be read by one caller and, with more on its stack, not to be written by another.
        (b'[\n{"x": ' + b"[" * 100 + b"]" * 100 + b"}]", "", "nested too deeply"),
        (b'[\n{"x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}]", "", "nested too deeply"),
        (b"[" + b" " * BYTES_MAX + b"]", "", "is larger than"),
        (b"[" + b'{"a": 1},' * 1_200_000, "", "is larger than"),
    ],
)
def test_a_damaged_file_is_reported_with_its_place_and_left_alone(
    file: ScheduleFile, content: bytes, place: str, problem: str
) -> None:
    write(file, content)
    before = file.path.stat()
    for attempt in (file.read, lambda: file.update(lambda schedules: [*schedules, made(1)])):
        with pytest.raises(SchedulesFileError) as caught:
            attempt()
        assert str(file.path) in caught.value.message
        assert place in caught.value.message
        assert problem in caught.value.message
        assert len(caught.value.message) < 1000
    assert file.path.read_bytes() == content
    after = file.path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_names_with_letters_that_are_not_seen_are_read_and_kept(file: ScheduleFile) -> None:
    family, persian = "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    write(file, [entry(name=family, vm_names=[persian, "a\u202eb"], pre_script=["/bin/before", family])])
    [schedule] = file.read()
    assert (schedule.name, schedule.vm_names) == (family, (persian, "a\u202eb"))
    file.update(lambda schedules: [replace(schedules[0], enabled=False)])
    assert json.loads(file.path.read_bytes())[0]["name"] == family


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ("text", "a text where an object is expected"),
        (None, "null where an object is expected"),
        ({"name": "x"}, "'id' is missing"),
        (entry(id=5), "id: the number 5 where a text"),
        (entry(id=""), "id: an empty text"),
        (entry(name=None), "name: null"),
        (entry(name="a\x1b[2J"), "control characters"),
        (entry(name="\ud800"), "control characters"),
        (entry(name="a\u2028b"), "control characters"),
        (entry(vm_names="web"), "vm_names: a text where a list"),
        (entry(vm_names=["web", 1]), "vm_names: a list where a list of names"),
        (entry(vm_names=["a\nb"]), "vm_names"),
        (entry(schedule_type=["daily"]), "schedule_type: a list"),
        (entry(schedule_time=2), "schedule_time: the number 2"),
        (entry(backup_mode="differential"), "backup_mode: 'differential' where one of full, incremental, snapshot"),
        (entry(backup_mode={}), "backup_mode"),
        (entry(enabled="yes"), "enabled: a text where true or false"),
        (entry(enabled=1), "enabled: the number 1"),
        (entry(status=5), "status: the number 5"),
        (entry(next_run="tomorrow"), "next_run: 'tomorrow' where a time"),
        (entry(next_run=1790000000), "next_run"),
        (entry(last_run="9999-12-31T23:59:59-14:00"), "last_run"),
        (entry(next_run="9999-12-31T23:59:59+00:00"), "next_run"),
        (entry(created_at="0001-01-01T00:00:00+00:00"), "created_at"),
        (entry(repository=5), "repository: the number 5 where a text"),
        (entry(repository=""), "repository: an empty text"),
        (entry(repository="a\nb"), "repository: 'a\\nb' holds control characters"),
        (entry(pre_script="rm -rf /"), "pre_script: a text where a list of plain words"),
        (entry(pre_script=[1]), "pre_script: a list where a list of plain words"),
        (entry(pre_script=[""]), "pre_script: an empty text where a program"),
        (entry(post_script=["a\0b"]), "post_script: a list where"),
        (entry(post_script={"a": 1}), "post_script: an object where"),
        (entry(retention=7), "retention: the number 7 where an object"),
        (entry(retention={"daily": "7"}), "retention: daily: a text where a number from 0"),
        (entry(retention={"daily": True}), "retention: daily: true where a number"),
        (entry(retention={"daily": 1.5}), "retention: daily: the number 1.5"),
        (entry(retention={"weekly": -1}), "retention: weekly: the number -1"),
        (entry(retention={"last": 0}), "retention: last: the number 0 where a number from 1"),
        (entry(retention={"yearly": 10_001}), "retention: yearly: the number 10001"),
        (entry(ship_to="nas"), "ship_to: a text where a list of repositories' names is expected"),
        (entry(ship_to=["nas", 7]), "ship_to: a list where"),
        (entry(ship_to=[""]), "ship_to: a list where"),
        (entry(retention={"hourly": 3}), "retention: 'hourly' where one of last, daily"),
        (entry(), "another schedule has the id '1a2b3c4d' too"),
    ],
)
def test_a_wrong_object_is_named_with_its_line_and_the_file_left_alone(
    file: ScheduleFile, wrong: object, problem: str
) -> None:
    content = write(file, f"[\n{json.dumps(entry())},\n  {json.dumps(wrong)}\n]".encode())
    with pytest.raises(SchedulesFileError) as caught:
        file.update(lambda schedules: [*schedules, made(1)])
    assert "line 3 column 3: schedule 2" in caught.value.message
    assert problem in caught.value.message
    assert file.path.read_bytes() == content


def test_a_time_that_cannot_be_used_does_not_hide_the_other_schedules(file: ScheduleFile) -> None:
    write(file, [entry(schedule_time="25:00"), entry(id="2", schedule_type="yearly")])
    assert [schedule.schedule_time for schedule in file.read()] == ["25:00", "02:00"]


def test_a_link_to_a_file_that_is_not_there_is_an_error_and_no_empty_list(tmp_path: Path) -> None:
    link = tmp_path / FILE_NAME
    link.symlink_to(tmp_path / "unmounted.json")
    file = ScheduleFile(tmp_path, PARIS)
    for use in (file.read, lambda: file.update(lambda before: before)):
        with pytest.raises(SchedulesFileError, match=f"{FILE_NAME} leads to .*unmounted.json, which is not there"):
            use()
    link.unlink()
    assert ScheduleFile(tmp_path, PARIS).read() == ()


def test_a_link_that_leads_to_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "scheduled_backups.json").symlink_to("scheduled_backups.json")
    with pytest.raises(StorageError):
        ScheduleFile(tmp_path, PARIS).read()


def test_the_last_good_state_outlives_damage(file: ScheduleFile) -> None:
    file.update(lambda _: [made(1)])
    write(file, b"[{")
    schedules, error = file.read_or_last_good()
    assert schedules == (made(1),)
    assert isinstance(error, SchedulesFileError)
    write(file, [entry()])
    schedules, error = file.read_or_last_good()
    assert [schedule.id for schedule in schedules] == ["1a2b3c4d"]
    assert error is None


def bad(**changes: object) -> dict[str, object]:
    return entry(enabled="yes", **changes)


def ids(found: tuple[Schedule, ...]) -> list[str]:
    return [schedule.id for schedule in found]


def test_of_one_that_is_wrong_from_the_beginning_the_name_is_told_and_the_others_are_there(
    file: ScheduleFile,
) -> None:
    content = write(file, [entry(id="a"), bad(id="b", name="Nightly"), entry(id="c")])
    schedules, error = file.read_or_last_good()
    assert ids(schedules) == ["a", "c"]
    assert error is not None
    assert "schedule 2, 'Nightly': enabled: a text where true or false is expected" in error.message
    assert file.path.read_bytes() == content


def test_all_that_are_wrong_are_named(file: ScheduleFile) -> None:
    write(file, [bad(id="a", name="One"), entry(id="b"), bad(id="c", name="Three"), 7])
    schedules, error = file.read_or_last_good()
    assert ids(schedules) == ["b"]
    assert all(
        told in str(error) for told in ("schedule 1, 'One'", "schedule 3, 'Three'", "schedule 4: the number 7")
    )


def test_one_that_became_wrong_goes_on_as_it_was_beside_others_as_they_are_now(file: ScheduleFile) -> None:
    write(file, [entry(id="a", name="A"), entry(id="b", name="B"), entry(id="c")])
    file.read()
    write(file, [entry(id="a", name="A2"), bad(id="b", name="B2")])
    schedules, error = file.read_or_last_good()
    assert [(one.id, one.name) for one in schedules] == [("a", "A2"), ("b", "B")]
    assert isinstance(error, SchedulesFileError)


@pytest.mark.parametrize("wrong", [[bad(id="new")], [bad(id=7)], [7], [bad(id="b"), bad(id="b")], [entry(id="a")]])
def test_when_it_cannot_be_told_which_one_is_wrong_all_go_on_as_they_were(
    file: ScheduleFile, wrong: list[object]
) -> None:
    write(file, [entry(id="a", name="A"), entry(id="b", name="B")])
    before = file.read()
    write(file, [entry(id="a", name="A2"), *wrong])
    schedules, error = file.read_or_last_good()
    assert schedules == before
    assert isinstance(error, SchedulesFileError)


def test_nothing_is_written_while_one_is_wrong(file: ScheduleFile) -> None:
    content = write(file, [entry(id="a"), bad(id="b")])
    with pytest.raises(SchedulesFileError) as caught:
        file.update(lambda schedules: [*schedules, made(1)])
    assert "editor" in caught.value.hint
    assert file.path.read_bytes() == content


def test_damage_from_the_beginning_means_no_schedules_and_an_error(file: ScheduleFile) -> None:
    write(file, b"[{")
    schedules, error = file.read_or_last_good()
    assert schedules == ()
    assert isinstance(error, SchedulesFileError)


def test_a_reader_sees_what_another_process_wrote(file: ScheduleFile) -> None:
    other = ScheduleFile(file.path.parent, PARIS)
    assert file.read() == ()
    other.update(lambda _: [made(1)])
    assert file.read() == (made(1),)
    assert file.read() is file.read()  # parsed once
    other.update(lambda _: [made(2)])  # of the same size
    assert file.read() == (made(2),)
    other.path.unlink()
    assert file.read() == ()


def test_what_a_change_raises_leaves_the_file_and_frees_the_lock(file: ScheduleFile) -> None:
    file.update(lambda _: [made(1)])
    before = file.path.stat()

    def refuse(schedules: tuple[Schedule, ...]) -> list[Schedule]:
        raise ValueError("no")

    with pytest.raises(ValueError):
        file.update(refuse)
    file.update(lambda schedules: schedules)  # the same again is not written
    assert file.path.stat().st_mtime_ns == before.st_mtime_ns
    assert file.path.stat().st_ino == before.st_ino


def test_a_lock_that_is_never_freed_is_an_error_that_changes_nothing(tmp_path: Path) -> None:
    held, impatient = ScheduleFile(tmp_path, PARIS), ScheduleFile(tmp_path, PARIS, lock_wait=0.05)

    def change(schedules: tuple[Schedule, ...]) -> list[Schedule]:
        with pytest.raises(SchedulesFileError, match="locked by another process"):
            impatient.update(lambda _: [made(2)])
        return [made(1)]

    held.update(change)
    assert held.read() == (made(1),)


def test_more_than_can_be_read_again_is_not_written(file: ScheduleFile) -> None:
    file.update(lambda _: [made(1)])
    with pytest.raises(SchedulesFileError, match="would be larger"):
        file.update(lambda _: [replace(made(2), extra={"x": "y" * BYTES_MAX})])
    assert file.read() == (made(1),)


def test_a_file_behind_a_link_is_replaced_where_it_lies(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text("[]")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / FILE_NAME).symlink_to(elsewhere)
    ScheduleFile(tmp_path / "state", PARIS).update(lambda _: [made(1)])
    assert (tmp_path / "state" / FILE_NAME).is_symlink()
    assert json.loads(elsewhere.read_text())[0]["name"] == "schedule 1"


def test_a_pipe_in_its_place_is_refused_without_waiting(file: ScheduleFile) -> None:
    os.mkfifo(file.path)
    with pytest.raises(SchedulesFileError, match="no regular file"):
        file.read()


def test_processes_that_change_at_once_lose_and_double_nothing(file: ScheduleFile) -> None:
    processes = [
        subprocess.Popen([sys.executable, HAMMER, file.path.parent, str(number), str(ROUNDS)], stderr=subprocess.PIPE)
        for number in range(PROCESSES)
    ]
    reads = 0
    while any(process.poll() is None for process in processes):
        file.read()  # raises when it sees a part of a file
        reads += 1
    for process in processes:
        _, error = process.communicate()
        assert process.returncode == 0, error.decode()
    schedules = file.read()
    assert sorted(schedule.name for schedule in schedules) == sorted(
        f"p{number}-{turn}" for number in range(PROCESSES) for turn in range(ROUNDS)
    )
    assert len({schedule.id for schedule in schedules}) == PROCESSES * ROUNDS
    for schedule in schedules:
        assert schedule.vm_names == ("web", f"vm{schedule.name[1]}")
        assert (schedule.schedule_time, schedule.enabled) == ("03:30", False)
    assert reads > 0


def test_a_process_killed_before_it_puts_its_content_in_place_leaves_nothing(file: ScheduleFile) -> None:
    file.update(lambda _: [made(1)])
    victim = subprocess.Popen([sys.executable, "-c", KILLED_BEFORE_THE_RENAME, file.path.parent])
    assert victim.wait() == -signal.SIGKILL
    assert len(list(file.path.parent.glob(".*.new-*"))) == 1
    assert file.read() == (made(1),)
    file.update(lambda schedules: [*schedules, made(2)])  # its lock died with it
    assert file.read() == (made(1), made(2))
    assert list(file.path.parent.glob(".*.new-*")) == []
