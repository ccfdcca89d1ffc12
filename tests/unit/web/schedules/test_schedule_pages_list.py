"""The list of schedules: what it tells, how it is searched, filtered and sorted, and what its buttons do."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest

from kvm_backup.domain.account import Role
from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import RunState
from kvm_backup.domain.schedule import Schedule, ScheduleStatus
from kvm_backup.services.schedules.commands import NewSchedule
from tests.unit.web.dashboard import Dashboard
from tests.unit.web.schedules.conftest import Site, rows
from tests.unit.web.schedules.markup import Element, parse

NARROW = "\N{NARROW NO-BREAK SPACE}"
FRAGMENT = {"hx-request": "true", "hx-current-url": "http://localhost/schedules"}


def row_of(page: Element, name: str) -> Element:
    return next(row for row in page.one("tbody").all("tr") if row.one("th").one("a").text == name)


def cell(row: Element, label: str) -> str:
    return row.one("td", data_label=label).text


def many(site: Site, count: int) -> None:
    now = datetime.now(UTC)
    site.application.schedule_file.update(
        lambda _: [
            Schedule(
                f"{n:032x}", f"Plan {n:04}", ("web", f"vm{n}"), "daily", "02:00", next_run=now + timedelta(minutes=n)
            )
            for n in range(count)
        ]
    )


def test_a_row_tells_what_when_how_and_for_which_vms(site: Site) -> None:
    site.add("Sunday", "a", "b", "c", "d", "e", at=("weekly", "dimanche:03:00"), mode="full")
    row = row_of(site.user().get("/schedules"), "Sunday")
    assert row.one("th").text == "Sunday a, b, c + 2"
    assert cell(row, "When") == "Every Sunday at 03:00 full"
    assert cell(row, "State") == "scheduled"
    assert row.one("td", data_label="Next run").all("time", data_time="ago")
    assert cell(row, "Last run") == "–"


def test_in_french_the_words_are_those_of_the_first_version(site: Site) -> None:
    site.add("Dimanche", at=("weekly", "sunday:02:00"))
    page = site.user(language="fr").get("/schedules")
    assert page.one("h1").text == "Sauvegardes Programmées"
    assert page.one("a", href="/schedules/new").text == "➕ Nouvelle Planification"
    row = row_of(page, "Dimanche")
    assert cell(row, "Quand") == "Chaque dimanche à 02\N{NO-BREAK SPACE}h\N{NO-BREAK SPACE}00 incrémentielle".replace(
        "\N{NO-BREAK SPACE}", " "
    )
    buttons = {button["title"] for button in row.all("button")} | {
        link["title"] for link in row.all("a", class_="button")
    }
    assert buttons == {"Désactiver", "Exécuter maintenant", "Modifier", "Supprimer"}


def test_without_schedules_the_page_tells_the_first_step(site: Site) -> None:
    page = site.user().get("/schedules")
    assert "No backup is planned yet" in page.one(class_="empty").text
    assert [link["href"] for link in page.one(class_="empty").all("a")] == ["/schedules/new"]
    assert page.all("table") == []


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, "scheduled"),
        ({"enabled": False}, "disabled"),
        ({"status": ScheduleStatus.FAILED}, "failed"),
        ({"status": ScheduleStatus.LATE}, "late"),
        ({"status": ScheduleStatus.RUNNING}, "running"),
        ({"schedule_time": "25:00"}, "cannot be used"),
    ],
)
def test_the_state_is_told_in_a_word(site: Site, change: dict[str, object], state: str) -> None:
    site.add()
    site.application.schedule_file.update(lambda held: [replace(held[0], **change)])  # type: ignore[arg-type]
    assert cell(row_of(site.user().get("/schedules"), "Nightly"), "State") == state


def test_a_schedule_whose_run_goes_on_is_running_whoever_started_it(site: Site) -> None:
    site.ran(site.add(), "web", RunState.RUNNING)
    assert cell(row_of(site.user().get("/schedules"), "Nightly"), "State") == "running"


def test_the_last_result_counts_the_runs_of_the_last_time_the_worst_first(site: Site) -> None:
    made = site.add("Nightly", "a", "b", "c")
    today = datetime.now(UTC)
    site.ran(made, "a", RunState.FAILED, today - timedelta(days=1))
    site.ran(made, "a", RunState.SUCCEEDED, today)
    site.ran(made, "b", RunState.SUCCEEDED, today)
    failed = site.ran(made, "c", RunState.FAILED, today)
    last = row_of(site.user().get("/schedules"), "Nightly").one("td", data_label="Last run")
    assert [link.text for link in last.all("a")] == ["failed", "succeeded × 2"]
    assert [link["href"] for link in last.all("a")] == [f"/runs/{failed.id}", f"/schedules/{made.id}#runs"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("q=DATA", ["Databases", "Hourly"]),
        ("q=hour", ["Hourly"]),
        ("q=%20web2%20", ["Weekly"]),
        ("type=hourly", ["Hourly"]),
        ("state=disabled", ["Weekly"]),
        ("state=scheduled&q=data", ["Databases", "Hourly"]),
        ("sort=name", ["Databases", "Hourly", "Weekly"]),
        ("sort=-name", ["Weekly", "Hourly", "Databases"]),
        ("sort=-last", ["Databases", "Hourly", "Weekly"]),
        ("type=yearly&state=odd&sort=colour&page=99&sort=name", ["Databases", "Hourly", "Weekly"]),
    ],
)
def test_the_list_is_searched_filtered_and_sorted(site: Site, query: str, expected: list[str]) -> None:
    site.add("Hourly", "data1", at=("hourly", "15"))
    databases = site.add("Databases", at=("daily", "02:00"))
    weekly = site.add("Weekly", "web2", at=("weekly", "sunday:02:00"))
    site.application.schedules.disable(weekly.id)
    site.application.schedules.record_run(databases.id, datetime.now(UTC), succeeded=True)
    assert sorted(rows(site.user().get(f"/schedules?{query}"))) == sorted(expected)
    if "sort" in query:
        assert rows(site.user().get(f"/schedules?{query}")) == expected


def test_what_is_due_next_comes_first_and_what_is_not_planned_last_in_either_order(site: Site) -> None:
    now = datetime.now(UTC)
    planned = {"A": None, "B": now + timedelta(days=2), "C": now + timedelta(days=1), "D": now + timedelta(days=2)}
    site.application.schedule_file.update(
        lambda _: [Schedule(name, name, ("web",), "daily", "02:00", next_run=at) for name, at in planned.items()]
    )
    assert rows(site.user().get("/schedules")) == ["C", "B", "D", "A"]
    assert rows(site.user().get("/schedules?sort=-next")) == ["B", "D", "C", "A"]


def test_states_are_counted_for_what_was_searched(site: Site) -> None:
    off = site.add("Web one")
    site.add("Web two")
    site.add("Other", "db")
    site.application.schedules.disable(off.id)
    tabs = site.user().get("/schedules?q=web&state=disabled").one("nav", class_="tabs")
    assert [link.text for link in tabs.all("a")] == ["All 2", "Scheduled 1", "Disabled 1"]
    assert tabs.one("a", aria_current="page").text == "Disabled 1"


def test_a_search_without_a_hit_says_so_and_leads_back(site: Site) -> None:
    site.add()
    page = site.user().get("/schedules?q=nothing")
    assert page.one(class_="empty").one("a")["href"] == "/schedules"


def test_a_thousand_schedules_come_fifty_at_a_time(site: Site) -> None:
    many(site, 1000)
    user = site.user()
    first, last = user.get("/schedules"), user.get("/schedules?page=20")
    assert rows(first) == [f"Plan {n:04}" for n in range(50)]
    assert rows(last) == [f"Plan {n:04}" for n in range(950, 1000)]
    pager = first.one("nav", class_="pager")
    assert "1,000 entries" in pager.text
    assert "page 1 of 20" in pager.text
    assert rows(user.get("/schedules?page=21")) == rows(last)


def test_the_list_is_asked_for_again_as_it_is_shown_and_comes_alone(site: Site) -> None:
    many(site, 120)
    user = site.user()
    page = user.get("/schedules?q=plan&sort=-name&page=2")
    box = page.one(id="schedules")
    assert {"sse:schedules", "sse:runs"} <= {trigger.split()[0] for trigger in box["hx-trigger"].split(",")}
    asked = page.one("form", id="schedules-search").fields() | box.fields()
    fragment = user.get(f"{box['hx-get']}?{urlencode(asked, doseq=True)}", headers=FRAGMENT)
    assert fragment.all("html") == []
    assert rows(fragment) == rows(page) == [f"Plan {n:04}" for n in range(69, 19, -1)]


def test_a_schedule_is_disabled_and_enabled_and_the_browser_led_back_to_where_it_was(site: Site) -> None:
    made = site.add()
    user = site.user()
    back = {"referer": "http://localhost/schedules?q=night&page=1"}
    answer = user.post(f"/schedules/{made.id}/disable", headers=back)
    assert answer.headers["location"] == "/schedules?q=night&page=1"
    assert user.message(answer) == "Nightly is disabled."
    assert site.stored()[0]["enabled"] is False
    assert user.message(user.post(f"/schedules/{made.id}/enable", headers=back)) == "Nightly is enabled."
    assert site.stored()[0]["enabled"] is True


@pytest.mark.parametrize(
    "referer", ["http://elsewhere.example//evil.example/", "http://localhost/vms", "javascript:1", ""]
)
def test_no_action_leads_to_a_page_that_is_not_of_schedules(site: Site, referer: str) -> None:
    made = site.add()
    answer = site.user().post(f"/schedules/{made.id}/disable", headers={"referer": referer})
    assert answer.headers["location"] == f"/schedules/{made.id}"


def test_in_place_an_action_answers_with_the_row_and_a_word_for_who_does_not_see_it(site: Site) -> None:
    made = site.add()
    fragment = site.user().get("/schedules", headers=FRAGMENT)
    button = row_of(fragment, "Nightly").all("form")[0]
    answer = site.user().post(button["hx-post"], headers=FRAGMENT)
    assert answer.status_code == 200
    assert "hx-swap-oob" in answer.text
    assert "Nightly is disabled." in answer.text
    assert f"/schedules/{made.id}/enable" in answer.text


def test_running_now_puts_a_run_for_each_vm_into_the_queue(own_dashboard: Dashboard) -> None:
    made = own_dashboard.application.schedules.add(
        NewSchedule("Nightly", ["web", "db"], "monthly", "1:00:00", "full")
    )
    with own_dashboard.logged_in(Role.OPERATOR) as browser:
        page = parse(browser.get("/schedules").text)
        form = row_of(page, "Nightly").all("form")[1]
        assert form["action"] == f"/schedules/{made.id}/run"
        answer = browser.post(
            form["action"], data=form.fields(), headers={"referer": f"{own_dashboard.url}/schedules"}
        )
        told = parse(browser.get(answer.headers["location"]).text)
    assert told.one(id="messages").text == "Nightly: 2 backups were asked for."
    runs = own_dashboard.application.history.newest()
    assert {(run.vm_name, run.schedule_id, run.requested_mode) for run in runs} == {
        ("web", made.id, Mode.FULL),
        ("db", made.id, Mode.FULL),
    }
    assert len({run.created for run in runs}) == 1


def test_deleting_asks_first_and_then_forgets_the_schedule_alone(site: Site) -> None:
    made, kept = site.add("Nightly"), site.add("Other")
    run = site.ran(made, "web", RunState.SUCCEEDED)
    user = site.user()
    question = user.get(f"/schedules/{made.id}/delete")
    assert question.one("h1").text == "Delete Nightly?"
    assert "Restore points that it made stay" in question.one("form", class_="form").text
    assert len(site.stored()) == 2
    form = question.one("form", class_="form")
    answer = user.post(form["action"])
    assert answer.headers["location"] == "/schedules"
    assert user.message(answer) == "Nightly is deleted. Its restore points stay."
    assert [entry["id"] for entry in site.stored()] == [kept.id]
    assert site.application.history.get(run.id).schedule_id == made.id


def test_in_the_dialog_over_the_list_deleting_closes_it_and_lets_the_list_look_again(site: Site) -> None:
    made = site.add()
    answer = site.user().post(f"/schedules/{made.id}/delete", headers=FRAGMENT)
    assert answer.status_code == 200
    assert answer.headers["hx-trigger"] == "schedules-changed"
    elsewhere = site.user().post(
        f"/schedules/{site.add('X').id}/delete", headers=FRAGMENT | {"hx-current-url": "http://localhost/x"}
    )
    assert (elsewhere.status_code, elsewhere.headers["hx-redirect"]) == (204, "/schedules")


@pytest.mark.parametrize("verb", ["enable", "disable", "run", "delete"])
def test_a_schedule_that_is_gone_is_told_and_no_other_one_is_meant_by_the_beginning_of_its_id(
    site: Site, verb: str
) -> None:
    made = site.add()
    answer = site.user().post(f"/schedules/{made.id[:8]}/{verb}")
    assert answer.status_code == 404
    assert "there is no such schedule" in answer.text.lower()
    assert len(site.stored()) == 1


def test_every_change_is_in_the_audit_log_with_the_name_of_the_schedule(site: Site) -> None:
    made = site.add()
    user = site.user()
    for verb in ("disable", "enable", "delete"):
        user.post(f"/schedules/{made.id}/{verb}")
    told = [(entry.who, entry.action, entry.subject) for entry in site.application.audit.newest(limit=3)]
    assert told == [("operator", f"schedule.{verb}", "Nightly") for verb in ("delete", "enable", "disable")]


def test_a_viewer_sees_schedules_and_is_offered_nothing_that_changes_them(site: Site) -> None:
    made = site.add()
    viewer = site.user(Role.VIEWER)
    for url in ("/schedules", f"/schedules/{made.id}"):
        page = viewer.get(url).one("main")
        assert page.all("form", method="post") == []
        assert [link["href"] for link in page.all("a") if link["href"].endswith(("/new", "/edit", "/delete"))] == []
    for url in ("/schedules/new", f"/schedules/{made.id}/edit", f"/schedules/{made.id}/delete"):
        assert viewer.client.get(url).status_code == 403
    for verb in ("enable", "disable", "run", "delete", "edit"):
        assert viewer.post(f"/schedules/{made.id}/{verb}").status_code == 403
    assert viewer.post("/schedules").status_code == 403
    assert site.application.schedules.all() == (made,)


def test_a_damaged_file_is_told_with_its_line_and_the_last_good_state_stays_to_read(site: Site) -> None:
    made = site.add()
    user = site.user()
    user.get("/schedules")
    good = site.file.read_text()
    site.file.write_text(good.replace('"enabled": true', '"enabled": maybe'))
    page = user.get("/schedules")
    assert "line 9 column 16" in page.one(class_="message").text
    assert "cannot be changed until the file is mended" in page.one(class_="message").text
    assert rows(page) == ["Nightly"]
    assert page.one("main").all("form", method="post") == []
    assert page.all("a", href="/schedules/new") == []
    assert "line 9" in user.get(f"/schedules/{made.id}").text
    for verb in ("disable", "delete", "run"):
        assert user.post(f"/schedules/{made.id}/{verb}").status_code == 503
    assert "maybe" in site.file.read_text()
    site.file.write_text(good)
    assert user.get("/schedules").one("main").all("form", method="post")


def test_a_file_that_was_damaged_from_the_start_is_no_empty_list(site: Site) -> None:
    site.user()
    site.file.write_text("[{")
    page = site.user().get("/schedules")
    assert "line 1" in page.one(class_="message").text
    assert page.all(class_="empty") == []
