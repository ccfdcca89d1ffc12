"""What pages tell though others wrote it: cookies that are not ours, halves of characters, values that are none."""

import base64
import json
from datetime import UTC, datetime

import httpx
import pytest

from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import Run, RunKind, RunState, Trigger
from tests.unit.web.dashboard import Dashboard

RUN = "7" * 32


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
    log = dashboard.application.log_file
    dashboard.application.history.create(
        Run(
            id=RUN,
            vm_name="web",
            kind=RunKind.BACKUP,
            trigger=Trigger.COMMAND,
            host=dashboard.application.host,
            repository="default",
            requested_mode=Mode.FULL,
            state=RunState.QUEUED,
            created=datetime(2026, 11, 22, tzinfo=UTC),
        )
    )
    log.path.parent.mkdir(exist_ok=True)
    with log.path.open("a") as file:
        file.write(json.dumps({"time": 7, "run": RUN, "event": "odd \ud800 <b>", "level": ["x"], "n": None}) + "\n")
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
