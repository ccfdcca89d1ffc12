"""A button that is pressed twice asks once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from kvm_backup.domain.account import Role
from kvm_backup.services.schedules.commands import NewSchedule
from kvm_backup.web.once import Once
from tests.unit.web.dashboard import Dashboard, csrf_of


def test_who_asks_while_the_first_is_being_answered_gets_the_same_answer() -> None:
    once, go_on = Once(), threading.Event()
    asked: list[int] = []

    def ask() -> int:
        asked.append(len(asked))
        assert go_on.wait(30)
        return asked[-1]

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(once.do, "backup of web", ask) for _ in range(8)]
        go_on.set()
        assert [answer.result(30) for answer in answers] == [0] * 8
    assert asked == [0]


def test_who_asks_again_later_or_for_something_else_is_answered_anew() -> None:
    clock = [0.0]
    once = Once(lambda: clock[0])
    numbers = iter(range(9))

    def ask(key: str) -> int:
        return once.do(key, lambda: next(numbers))

    first = [ask("web"), ask("web"), ask("mail")]
    clock[0] = 10.0
    assert [*first, ask("web")] == [0, 0, 1, 2]


def test_what_failed_is_tried_again_at_once() -> None:
    once = Once()

    def fails() -> None:
        raise OSError

    with pytest.raises(OSError):
        once.do("web", fails)
    assert once.do("web", lambda: "done") == "done"


def test_a_double_click_on_run_now_starts_the_vms_of_a_schedule_once(dashboard: Dashboard) -> None:
    application = dashboard.application
    schedule = application.schedules.add(NewSchedule("pressed twice", ["web", "mail"], "daily", "02:00", "full"))
    application.repositories.configured()
    with dashboard.logged_in(Role.OPERATOR) as client, ThreadPoolExecutor(4) as pool:
        fields = {"csrf": csrf_of(client.get("/account").text)}
        presses = [pool.submit(client.post, f"/schedules/{schedule.id}/run", data=fields) for _ in range(4)]
        answers = [press.result() for press in presses]
    assert {answer.status_code for answer in answers} == {303}
    with dashboard.logged_in(Role.VIEWER) as client:
        held = client.get("/api/v1/runs", params={"schedule": schedule.id}).json()["runs"]
    assert sorted(run["vm_name"] for run in held if run["attempt"] == 1) == ["mail", "web"]
