"""kvm-backup run …: what it shows, what it refuses, and that its documents tell all of it."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kvm_backup.database.engine import Database, sqlite_url
from kvm_backup.database.history import History
from kvm_backup.domain.errors import EXIT_BAD_ARGUMENTS, EXIT_DONE, EXIT_FAILED, EXIT_NOT_FOUND
from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState, Trigger, allowed
from kvm_backup.domain.task import AsNewVm, InPlace, PruneTask, RestoreTask, Task, ToFolder, VerifyTask, task_as_json
from kvm_backup.services.run_log import LEADING_KEYS, LogFile, make_log
from kvm_backup.services.run_views import run_details, run_summary
from tests.unit.builders import Shelf
from tests.unit.cli.conftest import Command, Ended
from tests.unit.cli.test_documents import SECTIONS, first_column, words

RUNS = (Path(__file__).parents[3] / "docs/runs.md").read_text()
MOMENT = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
NASTY = "\x1b[31m[red]x[/red]\x07\u202e\x9b2J"


class Clock:
    def __init__(self) -> None:
        self.now = MOMENT

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def history(tmp_path: Path, clock: Clock) -> History:
    """The history that `command` has."""
    return History(Database.open(sqlite_url(tmp_path / "state" / "kvm-backup.db")), clock)


@pytest.fixture
def add(history: History, clock: Clock) -> Callable[..., Run]:
    def add_run(id_: str, **changes: Any) -> Run:
        fields: dict[str, Any] = {
            "vm_name": "web",
            "kind": RunKind.BACKUP,
            "trigger": Trigger.COMMAND,
            "host": "alpha",
            "repository": "default",
            "requested_mode": Mode.INCREMENTAL,
            "state": RunState.QUEUED,
            "created": clock.now,
        }
        return history.create(Run(id=id_, **fields | changes))

    return add_run


def refused(ended: Ended, status: int) -> str:
    assert ended.status == status, ended
    assert re.fullmatch(r"error: [^\n]+\nHINT: [^\n]+\n", ended.error), ended.error
    assert "error: unexpected" not in ended.error
    return ended.error


def good(history: History, clock: Clock, id_: str) -> None:
    history.start(id_)
    history.step_started(id_, "copy")
    clock.now += timedelta(seconds=4)
    result = RunResult(
        mode=Mode.FULL,
        reason="no-point",
        detail="the repository holds no earlier point of this VM",
        point="web--1a2b3c4d/20261122T020000Z",
        consistency="filesystem",
        bytes_read=8 * 2**30,
        bytes_stored=2**30,
    )
    history.finish(id_, RunState.SUCCEEDED, result)


def failed(history: History, clock: Clock, id_: str) -> None:
    history.start(id_)
    clock.now += timedelta(seconds=1)
    history.finish(id_, RunState.FAILED, RunResult(error="disk full", error_code="no-space", hint="Free some room."))


def test_runs_are_listed_newest_first_with_what_tells_them_apart(
    command: Command, history: History, add: Callable[..., Run], clock: Clock
) -> None:
    add("aaaaaaaa1111")
    good(history, clock, "aaaaaaaa1111")
    add("aaaaaaaa2222", vm_name="db")
    failed(history, clock, "aaaaaaaa2222")
    lines = command("run", "list", COLUMNS="200").output.splitlines()
    assert lines[0].split() == ["RUN", "VM", "KIND", "MODE", "STATE", "CREATED", "TOOK", "READ", "STORED", "ERROR"]
    assert lines[1].split()[:5] == ["aaaaaaaa2", "db", "backup", "incremental", "failed"]
    assert lines[1].endswith("disk full")
    assert lines[2].split()[:5] == ["aaaaaaaa1", "web", "backup", "full", "succeeded"]
    assert "4.0 s  8.0 GiB  1.0 GiB" in lines[2]
    for options, expected in [
        (("--vm", "db"), ["aaaaaaaa2222"]),
        (("--state", "succeeded"), ["aaaaaaaa1111"]),
        (("--limit", "1"), ["aaaaaaaa2222"]),
        (("--vm", "nosuch"), []),
    ]:
        listed = json.loads(command("run", "list", "--json", *options).output)
        assert [run["id"] for run in listed] == expected


def test_without_runs_the_list_says_what_to_do(command: Command) -> None:
    assert command("run", "list").output == "No run yet. Start one: kvm-backup backup VM\n"
    assert command("run", "list", "--state", "failed").output == "No such run.\n"
    assert json.loads(command("run", "list", "--json").output) == []


def test_a_good_run_is_shown_with_its_steps_rate_and_why_it_became_a_full_one(
    command: Command, history: History, add: Callable[..., Run], clock: Clock
) -> None:
    add("abc123")
    good(history, clock, "abc123")
    shown = command("run", "show", "abc", TZ="Asia/Tokyo").output
    for line in (
        "created      2026-11-22 11:00:00 JST",
        "rate         2.0 GiB/s",
        "point        web--1a2b3c4d/20261122T020000Z",
        "full because the repository holds no earlier point of this VM",
        "took         4.0 s",
    ):
        assert line in shown.splitlines(), line
    assert re.search(r"^copy +2026-11-22 11:00:00 JST +4.0 s$", shown, re.MULTILINE)
    details = json.loads(command("run", "show", "abc123", "--json").output)
    assert (details["seconds"], details["rate"], details["steps"][0]["seconds"]) == (4.0, 2 * 2**30, 4.0)


def test_the_rate_of_a_run_that_was_tried_again_is_that_of_its_last_attempt(
    command: Command, history: History, add: Callable[..., Run], clock: Clock
) -> None:
    add("abc123", kind=RunKind.SHIP)
    history.start("abc123")
    history.step_started("abc123", "ship")
    clock.now += timedelta(seconds=10)
    history.wait("abc123", clock.now, RunResult(error="away"))
    clock.now += timedelta(seconds=60)
    history.start("abc123")
    history.step_started("abc123", "ship")
    clock.now += timedelta(seconds=3)
    history.step_started("abc123", "prune")
    clock.now += timedelta(seconds=1)
    history.finish("abc123", RunState.SUCCEEDED, RunResult(bytes_read=4 * 2**20))
    details = json.loads(command("run", "show", "abc123", "--json").output)
    assert (details["seconds"], details["rate"]) == (74.0, 2**20)


def test_each_kind_in_the_list_is_what_the_option_takes(command: Command, add: Callable[..., Run]) -> None:
    for kind in RunKind:
        add(f"{kind.value:x<12}", kind=kind)
    listed = {line.split()[2] for line in command("run", "list").output.splitlines()[1:]}
    assert {len(json.loads(command("run", "list", "--json", "--kind", kind).output)) for kind in listed} == {1}


def test_only_runs_of_one_schedule_are_listed_by_its_name_or_the_beginning_of_its_id(
    command: Command, add: Callable[..., Run]
) -> None:
    words = ("--vms", "web", "--type", "daily", "--time", "02:00", "--json")
    nightly = json.loads(command("schedule", "add", "Nightly", *words).output)
    add("aaaa1111", schedule_id=nightly["id"])
    add("bbbb1111", schedule_id="of-another")
    for reference in ("Nightly", nightly["short_id"]):
        listed = json.loads(command("run", "list", "--schedule", reference, "--json").output)
        assert [run["id"] for run in listed] == ["aaaa1111"]
    refused(command("run", "list", "--schedule", "Weekly"), EXIT_NOT_FOUND)


def test_a_run_that_failed_is_shown_with_its_error_and_hint(
    command: Command, history: History, add: Callable[..., Run], clock: Clock
) -> None:
    add("abc123")
    failed(history, clock, "abc123")
    shown = command("run", "show", "abc123").output
    assert "error        disk full\nhint         Free some room.\n" in shown


def test_a_hostile_name_reaches_no_terminal(command: Command, history: History, add: Callable[..., Run]) -> None:
    add("abc123", vm_name=NASTY, schedule_name=NASTY, repository=NASTY)
    for arguments in (("list",), ("show", "abc123"), ("list", "--json"), ("show", "abc123", "--json")):
        output = command("run", *arguments).output
        assert output.replace("\n", "").isprintable(), arguments
        assert "31m" in output


@pytest.mark.parametrize("verb", ["show", "logs", "cancel", "retry"])
def test_a_run_that_is_not_there_or_not_the_only_one_is_an_error(
    command: Command, add: Callable[..., Run], verb: str
) -> None:
    add("abc1")
    add("abc2")
    assert "no run 'x'" in refused(command("run", verb, "x"), EXIT_NOT_FOUND)
    assert "abc1, abc2" in refused(command("run", verb, "abc"), EXIT_NOT_FOUND)
    refused(command("run", verb, ""), EXIT_NOT_FOUND)


@pytest.mark.parametrize(
    "arguments",
    [("list", "--state", "nosuch"), ("list", "--limit", "0"), ("list", "--limit", "x"), ("show",), ("list", "web")],
)
def test_bad_arguments_are_refused(command: Command, arguments: tuple[str, ...]) -> None:
    refused(command("run", *arguments), EXIT_BAD_ARGUMENTS)


def test_the_log_of_a_run_is_shown(
    command: Command, history: History, add: Callable[..., Run], tmp_path: Path
) -> None:
    add("abc123")
    log = make_log(
        LogFile(tmp_path / "state" / "logs" / "kvm-backup.jsonl", max_bytes=2**20, backups=1), host="alpha"
    )
    log.bind(run="abc123").warning("notice", vm="web", step="copy", message=NASTY)
    log.bind(run="other").info("started", vm="db")
    [shown] = command("run", "logs", "abc").output.splitlines()
    assert re.match(r"2\S+Z warning notice step=copy message=\\x1b\[31m\[red\]x", shown)
    [line] = command("run", "logs", "abc", "--json").output.splitlines()
    assert json.loads(line)["message"] == NASTY
    assert list(json.loads(line)) == [*LEADING_KEYS, "message"]


def test_following_a_run_that_has_ended_ends(
    command: Command, history: History, add: Callable[..., Run], clock: Clock
) -> None:
    add("abc123")
    good(history, clock, "abc123")
    ended = command("run", "logs", "abc123", "--follow")
    assert (ended.status, ended.output, ended.error) == (EXIT_DONE, "", "")


def test_a_queued_run_is_cancelled_at_once_a_running_one_is_asked_and_an_ended_one_refused(
    command: Command, history: History, add: Callable[..., Run]
) -> None:
    add("queued1")
    add("running1")
    history.start("running1")
    assert command("run", "cancel", "queued").output == "run queued1 of web: cancelled\n"
    assert command("run", "cancel", "running").output == "run running1 of web: asked to end\n"
    assert (history.get("queued1").state, history.cancel_requested("running1")) == (RunState.CANCELLED, True)
    assert "has ended already" in refused(command("run", "cancel", "queued1"), EXIT_BAD_ARGUMENTS)


def test_a_run_that_goes_on_is_not_tried_again(command: Command, add: Callable[..., Run]) -> None:
    add("queued1")
    assert "has not ended" in refused(command("run", "retry", "queued1"), EXIT_BAD_ARGUMENTS)


def test_a_retry_needs_what_a_backup_needs(
    command: Command, history: History, add: Callable[..., Run], clock: Clock
) -> None:
    add("abc123", repository="/nosuch")
    failed(history, clock, "abc123")
    assert "/nosuch" in refused(command("run", "retry", "abc123"), EXIT_NOT_FOUND)


def test_a_database_that_is_away_is_one_error_without_its_password(command: Command) -> None:
    url = "postgresql+psycopg://me:s3cret@127.0.0.1:9/runs"
    error = refused(command("run", "list", KVM_BACKUP_DATABASE__URL=url), EXIT_FAILED)
    assert "***@127.0.0.1" in error
    assert "s3cret" not in error


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("KVM_BACKUP_DATABASE", "postgresql://me:s3cret@h/d"),
        ("KVM_BACKUP_DATABASE", '"postgresql://me:s3cret@h/d"'),
        ("KVM_BACKUP_DATABASE__URL", "mysql://me:s3cret@h/d"),
        ("KVM_BACKUP_DATABASE__URL", "s3cret"),
        ("KVM_BACKUP_DATABASE", '{"urls": "s3cret"}'),
        ("KVM_BACKUP_DATABASE", '{"url": ["s3cret"]}'),
    ],
)
def test_a_password_in_a_setting_that_is_wrong_is_not_shown(command: Command, variable: str, value: str) -> None:
    ended = command("run", "list", **{variable: value})
    assert ended.status != EXIT_DONE
    assert "database" in ended.error
    assert "s3cret" not in ended.error + ended.output


def test_a_backup_without_libvirt_leaves_no_run(command: Command, shelf: Shelf, history: History) -> None:
    assert command("backup", "web").status == EXIT_FAILED
    assert history.newest() == []


# Documents


def a_run() -> Run:
    return Run(
        "r", "web", RunKind.BACKUP, Trigger.COMMAND, "alpha", "default", Mode.FULL, RunState.QUEUED, MOMENT
    )  # fmt: skip


TARGETS = (AsNewVm("web2"), InPlace(), ToFolder("/srv"))


def words_of(held: dict[str, Any]) -> set[str]:
    target = held.get("target") or {}
    return {held["kind"], *held} | {target.get("way", "way"), *target}


def test_the_keys_and_words_of_a_run_are_documented() -> None:
    keys_table, tasks_table = SECTIONS["run show"].split("A `task` has")
    assert first_column(keys_table) == set(run_details(a_run()))
    assert {*RunState, *RunKind, *Trigger} <= words(SECTIONS["run show"])
    tasks: list[Task] = [VerifyTask("f"), PruneTask("f"), *(RestoreTask("p", target) for target in TARGETS)]
    for task in tasks:
        assert words_of(task_as_json(task)) <= words(tasks_table)
    assert set(run_summary(a_run())) == set(run_details(a_run())) - {"steps"}


def table_after(heading: str) -> dict[str, str]:
    text = RUNS.split(heading)[1]
    rows = re.search(r"\|---\|.*?\n((?:\|.*\n)+)", text)
    assert rows
    return dict(re.findall(r"^\| `([a-z]+)` \| (.+) \|$", rows[1], re.MULTILINE))


def test_the_states_and_their_edges_are_documented() -> None:
    assert set(table_after("## States")) == {*RunState}
    edges = {before: words(after) for before, after in table_after("| from | to |").items()}
    expected = {state: {after for after in RunState if allowed(state, after)} for state in RunState}
    assert edges == {state: after for state, after in expected.items() if after}


def test_the_keys_of_the_log_are_documented() -> None:
    keys = RUNS.split("| key | value |")[1].split("| event |")[0]
    assert first_column(keys) == set(LEADING_KEYS)
