"""GET /events of the real server: what another process changes reaches a page that is open."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import uuid4

import httpx

from kvm_backup.bootstrap import Application
from kvm_backup.domain.account import Role
from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import Run, RunKind, RunResult, RunState, Trigger
from tests.unit.web.dashboard import Dashboard


class Stream:
    """Events as they come, as (name, data)."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.iter_lines()
        self.last_id = ""

    def until(self, name: str) -> list[tuple[str, str]]:
        """The events up to one of that name."""
        found: list[tuple[str, str]] = []
        event, data = "", []
        for line in self._lines:
            key, _colon, value = line.partition(": ")
            if key == "event":
                event = value
            elif key == "data":
                data.append(value)
            elif key == "id":
                self.last_id = value
            elif not line and event:
                found.append((event, "\n".join(data)))
                if event == name:
                    return found
                event, data = "", []
        raise AssertionError(f"the stream ended before {name}: {found}")

    def until_told(self, name: str, text: str) -> str:
        """The data of the first event of that name that has the text; one may come while the change is under way."""
        while text not in (data := self.until(name)[-1][1]):
            pass
        return data


@contextmanager
def events(client: httpx.Client, since: str, **headers: str) -> Iterator[Stream]:
    with client.stream("GET", "/events", params={"since": since}, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield Stream(answer)


def rendered_version(client: httpx.Client) -> str:
    """The version of the news that a page was rendered with."""
    found = re.search(r'sse-connect="/events\?since=([^"]+)"', client.get("/account").text)
    assert found
    return found[1]


def begun(application: Application, vm_name: str = "web") -> Run:
    """A run that copies."""
    history = application.history
    run = history.create(
        Run(
            id=uuid4().hex,
            vm_name=vm_name,
            kind=RunKind.BACKUP,
            trigger=Trigger.COMMAND,
            host=application.host,
            repository="default",
            requested_mode=Mode.FULL,
            state=RunState.QUEUED,
            created=datetime.now(UTC),
        )
    )
    assert history.start(run.id)
    history.step_started(run.id, "copy")
    history.progress(run.id, 256 * 1024**2, 1024**3)
    return run


def test_a_run_is_followed_from_its_begin_to_its_end(dashboard: Dashboard, administrator: httpx.Client) -> None:
    history = dashboard.application.history
    with events(administrator, rendered_version(administrator)) as stream:
        stream.until("badge")
        run = begun(dashboard.application, "web <b onclick=x>")
        try:
            html = stream.until_told(f"run-{run.id}", "25%")
            assert "copying" in html
            assert re.search(
                r'<progress max="1073741824" value="268435456" aria-label="[^"]*&lt;b onclick=x&gt;"', html
            )
            history.progress(run.id, 512 * 1024**2, 1024**3)
            stream.until_told(f"run-{run.id}", "50%")
        finally:
            history.finish(run.id, RunState.SUCCEEDED, RunResult())
        assert ("overview", "") in stream.until("overview")


def test_each_page_is_told_in_its_own_language(dashboard: Dashboard) -> None:
    with dashboard.logged_in() as client:
        run = begun(dashboard.application)
        try:
            with events(client, "", **{"Accept-Language": "fr"}) as stream:
                assert "copie" in stream.until(f"run-{run.id}")[-1][1]
        finally:
            dashboard.application.history.finish(run.id, RunState.CANCELLED, RunResult())


def test_a_change_of_the_schedules_by_a_command_is_told(dashboard: Dashboard, administrator: httpx.Client) -> None:
    with events(administrator, rendered_version(administrator)) as stream:
        stream.until("badge")
        dashboard.application.schedule_file.update(lambda schedules: schedules)
        (dashboard.state / "scheduled_backups.json").write_text("[]\n")
        stream.until("schedules")


def test_what_happened_between_rendering_and_connecting_is_told(
    dashboard: Dashboard, administrator: httpx.Client
) -> None:
    with events(administrator, rendered_version(administrator)) as stream:
        stream.until("badge")
        version = rendered_version(administrator)
        run = begun(dashboard.application)
        stream.until("runs")
        with events(administrator, version) as later:
            later.until("runs")
        dashboard.application.history.finish(run.id, RunState.FAILED, RunResult(error="x"))
        stream.until("runs")
        with events(administrator, version, **{"Last-Event-ID": stream.last_id}) as up_to_date:
            assert "runs" not in {name for name, _data in up_to_date.until("badge")}


def test_nobody_listens_without_an_account(visitor: httpx.Client) -> None:
    assert visitor.get("/events").status_code == 401


def test_a_viewer_may_listen(dashboard: Dashboard) -> None:
    with dashboard.logged_in(Role.VIEWER) as client, events(client, "") as stream:
        stream.until("badge")
