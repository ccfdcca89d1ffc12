"""What pages tell though others wrote it: cookies that are not ours, halves of characters, values that are none."""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import unquote

import httpx
import pytest

from kvm_backup.domain.account import Role
from kvm_backup.domain.alert import Away, Situation, Subject, SubjectKind
from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import Run, RunKind, RunState, Trigger
from kvm_backup.services.schedules.commands import NewSchedule
from tests.unit.web.dashboard import Dashboard, csrf_of

RUN = "7" * 32


def _queued(dashboard: Dashboard, run_id: str) -> Run:
    return dashboard.application.history.create(
        Run(
            id=run_id,
            vm_name="web",
            kind=RunKind.BACKUP,
            trigger=Trigger.COMMAND,
            host=dashboard.application.host,
            repository="default",
            requested_mode=Mode.FULL,
            state=RunState.QUEUED,
            created=datetime.now(UTC),
        )
    )


def _logged(dashboard: Dashboard, *lines: Mapping[str, object]) -> None:
    log = dashboard.application.log_file.path
    log.parent.mkdir(exist_ok=True)
    with log.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


@pytest.fixture
def french(administrator: httpx.Client) -> httpx.Client:
    administrator.headers["Accept-Language"] = "fr"
    return administrator


@pytest.mark.parametrize(
    "left",
    [
        json.dumps(["You won. Call 0800 and give your password.", "good", ""]).encode(),
        b'["\\ud800", "good", ""]',
        b"[" * 2000,
        b"\xff",
    ],
    ids=["a text", "half a character", "deep", "no text"],
)
def test_a_message_that_these_pages_did_not_leave_is_not_told(left: bytes, administrator: httpx.Client) -> None:
    administrator.cookies.set("message", base64.urlsafe_b64encode(left).decode())
    page = administrator.get("/schedules")
    assert page.status_code == 200, page.text
    assert "You won" not in page.text


def test_a_name_with_half_a_character_does_not_keep_a_page_from_being_shown(
    dashboard: Dashboard, administrator: httpx.Client
) -> None:
    _queued(dashboard, RUN)
    _logged(dashboard, {"time": 7, "run": RUN, "event": "odd \ud800 <b>", "level": ["x"], "n": None})
    page, lines = administrator.get(f"/runs/{RUN}"), administrator.get(f"/api/v1/runs/{RUN}/log")
    assert (page.status_code, lines.status_code) == (200, 200), lines.text
    assert "odd ? &lt;b&gt;" in page.text
    assert "odd" in lines.json()["lines"][0]["event"]


@pytest.mark.parametrize(
    "address",
    [
        "/runs?day=0001-01-01",
        "/runs?day=9999-12-31",
        "/runs?older=0001-01-01T00:00:00%2B14:00~x",
        "/api/v1/runs?since=0001-01-01T00:00:00%2B14:00",
        "/api/v1/runs?until=9999-12-31T23:59:59-12:00",
    ],
)
def test_the_first_and_the_last_day_of_the_calendar_are_days_too(address: str, administrator: httpx.Client) -> None:
    assert administrator.get(address).status_code == 200


@pytest.mark.parametrize("address", ["/vms?page=NaN", "/alerts?past=maybe", f"/runs?q={'a' * 201}"])
def test_a_parameter_that_cannot_be_used_is_told_in_the_users_language(address: str, french: httpx.Client) -> None:
    page = french.get(address)
    assert page.status_code == 422
    assert "ne convient pas." in page.text
    assert "Input" not in page.text
    assert "String" not in page.text


def test_a_long_log_is_shown_from_its_end(dashboard: Dashboard, administrator: httpx.Client) -> None:
    run = _queued(dashboard, "8" * 32)
    _logged(dashboard, *({"run": run.id, "event": f"line-{number}-end"} for number in range(2500)))
    page = administrator.get(f"/runs/{run.id}").text
    assert "line-2499-end" in page
    assert "line-499-end" not in page
    assert "Only the newest 2,000 lines" in page


@pytest.mark.parametrize("back", ["/vms?q=漢", "/é", "/a\r\nSet-Cookie: x=y", "//elsewhere.example"])
def test_where_a_form_leads_back_to_is_a_header_of_its_own(
    back: str, dashboard: Dashboard, administrator: httpx.Client
) -> None:
    alerts = dashboard.application.alerts
    alerts.evaluate(Situation(repositories_away=[Away(Subject(SubjectKind.REPOSITORY, "nas"), "not mounted", "")]))
    token = csrf_of(administrator.get("/account").text)
    answer = administrator.post(
        f"/alerts/{alerts.open()[-1].id}/acknowledge",
        data={"csrf": token, "back": back},
        headers={"HX-Request": "true"},
    )
    assert answer.status_code == 204, answer.text
    assert unquote(answer.headers["hx-redirect"]) in (back, "/")
    assert "elsewhere" not in answer.headers["hx-redirect"]
    assert "x=y" not in answer.headers["set-cookie"]


def test_a_viewer_does_not_see_what_a_schedule_runs_as_root(dashboard: Dashboard) -> None:
    schedule = dashboard.application.schedules.add(
        NewSchedule("with a script", ["web"], "daily", "02:00", "full", pre_script="/bin/before --password geheim")
    )
    shown = {}
    for role in Role:
        with dashboard.logged_in(role) as client:
            shown[role] = client.get(f"/schedules/{schedule.id}").text
    assert [role for role, page in shown.items() if "geheim" in page] == [
        Role.OPERATOR,
        Role.ADMINISTRATOR,
    ]
    assert "There is one; operators see it." in shown[Role.VIEWER]
