"""Backup tasks: the list with its filters and pages, one run, cancel and retry."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from kvm_backup.domain.account import Role
from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState, Trigger
from kvm_backup.domain.task import AsNewVm, InPlace, RestoreTarget, RestoreTask, ShipTask, ToFolder
from tests.unit.web.hostile import EVIL, is_text
from tests.unit.web.schedules.conftest import Site, rows
from tests.unit.web.schedules.markup import Element

NOW = datetime.now(UTC).replace(microsecond=0)


def a_run(site: Site, number: int = 0, state: RunState = RunState.SUCCEEDED, **changes: Any) -> Run:
    """A run that has got into this state; each one is older by a minute."""
    result = changes.pop("result", RunResult())
    run = Run(
        id=f"run-{number:04d}",
        vm_name=f"vm-{number:04d}",
        kind=RunKind.BACKUP,
        trigger=Trigger.COMMAND,
        host=site.application.host,
        repository="default",
        requested_mode=Mode.INCREMENTAL,
        state=RunState.QUEUED,
        created=NOW - timedelta(minutes=number),
    )
    history = site.application.history
    run = history.create(replace(run, **changes))
    if state is not RunState.QUEUED:
        history.start(run.id)
        history.step_started(run.id, "copy")
    if state.final:
        history.finish(run.id, state, result)
    return run


def shown(page: Element) -> list[str]:
    return rows(page) if page.all("tbody") else []


def test_without_runs_the_list_tells_where_they_come_from(site: Site) -> None:
    assert "Nothing has run yet" in site.user().get("/runs").text
    assert "Rien n'a encore tourné" in site.user(language="fr").get("/runs").text


def test_what_goes_on_stands_above_what_has_ended(site: Site) -> None:
    a_run(site, 1)
    running = a_run(site, 2, RunState.RUNNING)
    site.application.history.progress(running.id, 256, 1024)
    page = site.user().get("/runs")
    assert shown(page) == ["vm-0001"]
    going = page.one("section", aria_labelledby="going-title")
    assert "vm-0002" in going.text
    assert "25%" in going.text
    assert f"/runs/{running.id}/cancel" in [form["action"] for form in going.all("form")]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("state=bad", ["vm-0002"]),
        ("state=succeeded", ["vm-0001", "vm-0003"]),
        ("state=cancelled", []),
        ("kind=verify", ["vm-0003"]),
        ("q=vm-0001", ["vm-0001"]),
        ("q=%20vm-0001%20", ["vm-0001"]),
        ("q=nothing", []),
        (f"day={NOW.date() - timedelta(days=9)}", []),
    ],
)
def test_the_list_is_filtered_and_searched(site: Site, query: str, expected: list[str]) -> None:
    a_run(site, 1)
    a_run(site, 2, RunState.FAILED)
    a_run(site, 3, kind=RunKind.VERIFY, requested_mode=None)
    page = site.user().get(f"/runs?{query}")
    assert shown(page) == expected
    assert bool(expected) or "No task is like that" in page.text


@pytest.mark.parametrize(
    "query",
    [
        "state=nonsense&kind=nonsense",
        "day=2026-99-99",
        "day=0001-01-01",
        "day=9999-12-31",
        "older=nonsense",
        "older=2026-11-22~x",
        "older=2026-11-22T00:00:00%2B00:00~",
        "older=%00~%00",
        "q=%25_%27%22--",
        f"vm={quote(EVIL)}",
        f"schedule={quote(EVIL)}",
        "q=%00%ff",
    ],
)
def test_filters_that_make_no_sense_do_no_harm(site: Site, query: str) -> None:
    a_run(site, 1)
    page = site.user().get(f"/runs?{query}")
    assert page.one("h1").text == "Backup tasks"


def test_a_search_that_is_too_long_is_refused(site: Site) -> None:
    assert site.user().client.get(f"/runs?q={'x' * 201}").status_code == 422


def test_older_runs_come_fifty_at_a_time_each_once(site: Site) -> None:
    for number in range(120):
        a_run(site, number)
    user = site.user()
    page, seen = user.get("/runs"), []
    while True:
        seen.append(shown(page))
        following = page.all("a", rel="next")
        if not following:
            break
        page = user.get(following[0]["href"])
    assert [len(names) for names in seen] == [50, 50, 20]
    assert [name for names in seen for name in names] == [f"vm-{number:04d}" for number in range(120)]


def test_the_page_of_a_run_tells_steps_figures_and_error_in_the_users_language(site: Site) -> None:
    failed = RunResult(error="the disk is full", error_code="no-space", hint="Make room.", bytes_read=3 << 20)
    run = a_run(site, state=RunState.FAILED, result=failed)
    page = site.user().get(f"/runs/{run.id}")
    assert "The disk is full." in page.text
    assert "Make room." in page.text
    assert "no-space" in page.text
    assert "3\N{NO-BREAK SPACE}MiB" in "".join(page._texts())
    assert "échec" in site.user(language="fr").get(f"/runs/{run.id}").text


@pytest.mark.parametrize(
    ("state", "whole"), [(RunState.SUCCEEDED, True), (RunState.FAILED, False), (RunState.CANCELLED, False)]
)
def test_the_last_step_of_a_run_is_whole_only_if_the_run_is(site: Site, state: RunState, whole: bool) -> None:
    run = a_run(site, state=RunState.RUNNING)
    history = site.application.history
    history.step_started(run.id, "verify")
    assert history.finish(run.id, state, RunResult())
    steps = site.user().get(f"/runs/{run.id}").one("section", aria_labelledby="steps-title").all("li")
    drawn = [step.one("path")["d"] for step in steps]
    assert len(drawn) == 2
    assert (drawn[0] == drawn[1]) is whole


def test_what_a_run_holds_is_text(site: Site) -> None:
    told = RunResult(error=EVIL, error_code=EVIL, hint=EVIL, detail=EVIL, reason=EVIL, point=f"a/{EVIL}")
    run = a_run(
        site, state=RunState.FAILED, vm_name=EVIL, repository=EVIL, schedule_id=EVIL, schedule_name=EVIL, result=told
    )
    running = a_run(site, 1, RunState.RUNNING, vm_name=EVIL)
    for language in ("en", "fr"):
        user = site.user(language=language)
        for path in (f"/runs/{run.id}", f"/runs/{running.id}", "/runs", f"/runs?vm={quote(EVIL)}"):
            is_text(user.get(path))


def test_a_run_that_is_not_there_is_not_found(site: Site) -> None:
    for run_id in ("nothing", quote(EVIL, safe=""), "%00", "..%2F..%2Fetc"):
        answer = site.user().client.get(f"/runs/{run_id}")
        assert answer.status_code == 404, run_id
        assert EVIL not in answer.text


def test_a_queued_run_is_cancelled_and_offered_again(site: Site) -> None:
    run = a_run(site, state=RunState.QUEUED)
    user = site.user()
    assert "cancelled" in user.message(user.post(f"/runs/{run.id}/cancel"))
    assert site.application.history.get(run.id).state is RunState.CANCELLED
    actions = [form["action"] for form in user.get(f"/runs/{run.id}").one("main").all("form")]
    assert actions == [f"/runs/{run.id}/retry"]


@pytest.mark.parametrize("verb", ["cancel", "retry"])
def test_a_viewer_may_neither_cancel_nor_retry(site: Site, verb: str) -> None:
    run = a_run(site, state=RunState.QUEUED)
    viewer = site.user(Role.VIEWER)
    assert viewer.get(f"/runs/{run.id}").one("main").all("form") == []
    assert viewer.post(f"/runs/{run.id}/{verb}").status_code == 403
    assert site.application.history.get(run.id).state is RunState.QUEUED
    assert len(site.application.history.newest()) == 1


def test_a_restore_is_not_done_again_by_a_button(site: Site) -> None:
    run = a_run(site, kind=RunKind.RESTORE, requested_mode=None)
    assert site.user().get(f"/runs/{run.id}").one("main").all("form") == []


@pytest.mark.parametrize(
    ("reason", "tone", "told", "note"),
    [
        ("no-point", "info", "The first point of a virtual machine", "first point"),
        ("checkpoint-missing", "warning", "instead of an incremental one", "instead of incremental"),
    ],
)
def test_the_first_point_is_full_as_it_should_be_and_a_later_one_is_worth_a_look(
    site: Site, reason: str, tone: str, told: str, note: str
) -> None:
    run = a_run(site, result=RunResult(mode=Mode.FULL, reason=reason, detail="why"))
    reader = site.user()
    page = reader.get(f"/runs/{run.id}").one("div", id="run")
    [message] = page.all("div", class_="message")
    assert tone in message["class"].split()
    assert told in message.text
    for where in (page, reader.get("/runs")):
        assert [hint.text.strip() for hint in where.all("span", class_="hint")] == [note]


def test_a_full_point_that_was_asked_for_needs_no_reason(site: Site) -> None:
    run = a_run(site, requested_mode=Mode.FULL, result=RunResult(mode=Mode.FULL, reason="requested"))
    page = site.user().get(f"/runs/{run.id}").one("div", id="run")
    assert page.all("div", class_="message") == []
    assert "instead of" not in page.text


def test_lines_of_the_log_tell_seconds_and_leave_out_what_is_empty(site: Site) -> None:
    run = a_run(site)
    entry = {"time": "2026-11-22T12:00:07.123456+00:00", "level": "info", "event": "end", "run": run.id}
    facts = {"seconds": 1.0789294579954003, "files": [], "notices": [], "disks": ["vda"], "count": 0}
    site.application.log_file.path.parent.mkdir(parents=True, exist_ok=True)
    site.application.log_file.path.write_text(json.dumps(entry | {"host": run.host} | facts) + "\n")
    log = site.user().get(f"/runs/{run.id}").one("div", class_="log")
    assert log.one("time").text.endswith(":07")
    assert log.text.split()[-3:] == ["seconds=1.08", "disks=['vda']", "count=0"]


def test_what_was_told_when_a_run_was_asked_for_goes_away_when_it_has_ended(site: Site) -> None:
    user = site.user()
    run = a_run(site, state=RunState.RUNNING)
    part = {"hx-request": "true"}
    assert user.get(f"/runs/{run.id}", part).all(id="messages") == []
    site.application.history.finish(run.id, RunState.SUCCEEDED, RunResult())
    told = user.get(f"/runs/{run.id}", part).one(id="messages")
    assert (told["hx-swap-oob"], told.text.strip()) == ("innerHTML", "")


POINT = "web--1a2b3c4d/20261121T232904Z"


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (AsNewVm("nuweb", start=True), f"Restored {POINT} as VM nuweb, started"),
        (AsNewVm("nuweb"), f"Restored {POINT} as VM nuweb"),
        (ToFolder("/srv/out", "raw"), f"Restored {POINT} to /srv/out, as raw"),
        (InPlace(stop=True), f"Restored {POINT} in place"),
    ],
)
def test_the_page_of_a_restore_tells_what_was_restored_where(site: Site, target: RestoreTarget, told: str) -> None:
    run = a_run(site, kind=RunKind.RESTORE, requested_mode=None, task=RestoreTask(POINT, target))
    figures = site.user().get(f"/runs/{run.id}").one("section", aria_labelledby="facts-title").text
    assert f"{told} Run" in " ".join(figures.split())


@pytest.mark.parametrize(
    ("target", "state", "told"),
    [
        (InPlace(), RunState.SUCCEEDED, True),
        (InPlace(), RunState.FAILED, False),
        (InPlace(), RunState.RUNNING, False),
        (AsNewVm("nuweb"), RunState.SUCCEEDED, False),
    ],
)
def test_only_a_restore_in_place_that_succeeded_tells_that_the_vm_was_left_off(
    site: Site, target: RestoreTarget, state: RunState, told: bool
) -> None:
    run = a_run(
        site,
        state=state,
        vm_name="big web",
        kind=RunKind.RESTORE,
        requested_mode=None,
        task=RestoreTask(POINT, target),
    )
    assert ("virsh start 'big web'" in site.user().get(f"/runs/{run.id}").text) is told
    assert ("est restée éteinte" in site.user(language="fr").get(f"/runs/{run.id}").text) is told


def test_a_shipment_tells_where_it_goes_what_was_sent_and_is_found_by_its_kind(site: Site) -> None:
    told = RunResult(bytes_read=3 << 20, bytes_stored=1 << 20, detail="points shipped: 2, 1 MiB sent")
    changes: dict[str, Any] = {"kind": RunKind.SHIP, "requested_mode": None, "trigger": Trigger.SERVICE}
    changes["repository"] = "nas"
    run = a_run(site, 1, result=told, task=ShipTask("vm-0001--1a2b3c4d"), **changes)
    a_run(site, 2)
    reader = site.user()
    listed = reader.get("/runs?kind=ship")
    assert shown(listed) == ["vm-0001"]
    row = listed.one("tbody").text
    assert "shipping" in row
    assert "to nas" in row
    assert "the service" in row
    page = reader.get(f"/runs/{run.id}").text.replace("\N{NO-BREAK SPACE}", " ")
    assert "Sent over the wire 1 MiB" in " ".join(page.split())
    assert "Points shipped: 2, 1 MiB sent." in page
    assert "Points envoyés" in site.user(language="fr").get(f"/runs/{run.id}").text
