"""The form of a schedule: what it sends is what the service makes, and what is wrong is told beside its field."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kvm_backup.config.settings import check
from kvm_backup.domain.account import Role
from kvm_backup.domain.retention import RetentionWish
from kvm_backup.domain.run import RunState
from kvm_backup.domain.schedule import Schedule
from kvm_backup.domain.timing import ScheduleType
from kvm_backup.services.schedules.commands import Changes
from tests.unit.web.schedules.conftest import FORM, Site, User
from tests.unit.web.schedules.markup import Element, parse

DIALOG = {"hx-request": "true", "hx-current-url": "http://localhost/schedules?sort=name"}


def form_of(page: Element) -> Element:
    return page.one("form", data_schedule_form="")


def filled(page: Element, **changes: Any) -> dict[str, Any]:
    """What a browser sends of the form on a page, after somebody typed."""
    return form_of(page).fields() | changes


def refused(user: User, url: str = "/schedules", status: int = 422, **changes: Any) -> Element:
    answer = user.post(url, FORM | changes)
    assert answer.status_code == status, answer.text
    return parse(answer.text)


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ({"type": "hourly", "minute": "15"}, ("hourly", "15")),
        ({"type": "daily", "clock": "23:05"}, ("daily", "23:05")),
        ({"type": "weekly", "weekday": "friday", "clock": "03:00"}, ("weekly", "friday:03:00")),
        ({"type": "monthly", "day": "31", "clock": "04:30"}, ("monthly", "31:04:30")),
        ({"type": "cron", "cron": " 30 2 * * 1-5 "}, ("cron", "30 2 * * 1-5")),
    ],
)
def test_each_kind_is_made_from_the_fields_that_fit_it(
    site: Site, typed: dict[str, str], stored: tuple[str, str]
) -> None:
    user = site.user()
    answer = user.post("/schedules", filled(user.get("/schedules/new"), name="Mine", vms=["web"], **typed))
    made = site.application.schedules.all()[0]
    assert answer.headers["location"] == f"/schedules/{made.id}"
    assert (made.schedule_type, made.schedule_time) == stored
    assert made.next_run is not None


def test_all_that_the_form_holds_becomes_the_schedule(site: Site) -> None:
    site.know("web", "db")
    administrator = site.user(Role.ADMINISTRATOR)
    typed = filled(
        administrator.get("/schedules/new?vms=db"),
        name=" Nightly ",
        other_vms="mail\n\n web \n",
        mode="full",
        repository="nas",
        retention="own",
        keep_last="24",
        keep_daily="0",
        pre_script="/bin/before 'a b'",
        post_script="/bin/after",
    )
    told = administrator.message(administrator.post("/schedules", typed))
    assert told == "Nightly is planned: every day at 02:00. This host knows no VM called mail yet."
    made = site.application.schedules.all()[0]
    assert made.vm_names == ("db", "mail", "web")
    assert (made.name, made.backup_mode, made.repository) == ("Nightly", "full", "nas")
    assert made.retention == RetentionWish(last=24, daily=0)
    assert (made.pre_script, made.post_script) == (("/bin/before", "a b"), ("/bin/after",))


def test_numbers_that_were_typed_do_not_count_while_the_repositorys_rule_is_chosen(site: Site) -> None:
    user = site.user()
    user.post("/schedules", FORM | {"retention": "inherit", "keep_last": "x", "keep_daily": "3"})
    assert site.application.schedules.all()[0].retention == RetentionWish()


def test_the_form_shows_the_next_five_times_and_what_the_repository_keeps(site: Site) -> None:
    user = site.user()
    form = form_of(user.get("/schedules/new"))
    assert len(form.one(id="preview").one("ol").all("li")) == 5
    assert form.one(data_kept="").text == "Now: the newest 7 points, 7 days, 4 weeks, 6 months."
    assert "30 days" in user.get("/schedules/kept?repository=nas").text
    assert [option["value"] for option in form.one("select", name="repository").all("option")] == [
        "",
        "default",
        "nas",
    ]


WRONG = [
    ({"name": ""}, "name", "Expected: a name of 1 to 100 characters, without control characters."),
    ({"name": "x" * 101}, "name", f"“{'x' * 100}…” cannot be used."),
    ({"name": "TAKEN"}, "name", "“TAKEN” cannot be used. Expected: a name that no other schedule has"),
    ({"vms": []}, "vms", "Expected: one VM or more."),
    ({"vms": ["a\x07b"]}, "vms", "“a\\x07b” cannot be used. Expected: a VM's name"),
    ({"clock": "25:00"}, "time", "“25:00” cannot be used. Expected: HH:MM, such as 02:00"),
    ({"clock": ""}, "time", "Expected: HH:MM, such as 02:00"),
    ({"type": "weekly", "weekday": "someday"}, "time", "“someday:02:00” cannot be used. Expected: DAY:HH:MM"),
    ({"type": "monthly", "day": "32"}, "time", "“32:02:00” cannot be used. Expected: D:HH:MM"),
    ({"type": "hourly", "minute": "60"}, "time", "“60” cannot be used. Expected: MM"),
    ({"type": "cron", "cron": "* * *"}, "time", "“* * *” cannot be used. Expected: five fields"),
    ({"type": "cron", "cron": "0 0 30 2 *"}, "time", "“0 0 30 2 *” cannot be used."),
    ({"type": "yearly"}, "type", "“yearly” cannot be used. Expected: one of hourly, daily"),
    ({"mode": "partial"}, "mode", "“partial” cannot be used. Expected: one of full, incremental, snapshot"),
    ({"repository": "usb"}, "repository", "“usb” cannot be used. Expected: one of default, nas."),
    ({"repository": "/etc"}, "repository", "“/etc” cannot be used. Expected: one of default, nas."),
    ({"retention": "own", "keep_last": "0"}, "keep_last", "“0” cannot be used. Expected: a number from 1 to 10000."),
    ({"retention": "own", "keep_yearly": "many"}, "keep_yearly", "“many” cannot be used. Expected: a number from 0"),
]


@pytest.mark.parametrize(("typed", "field", "told"), WRONG)
def test_what_is_wrong_is_told_beside_its_field_with_what_came_and_what_is_expected(
    site: Site, typed: dict[str, Any], field: str, told: str
) -> None:
    kept = site.add("Taken")
    form = form_of(refused(site.user(), **typed))
    place = form.one(id="preview").one(class_="field-error") if field == "time" else form.one(id=f"{field}-error")
    assert place.text.startswith(told)
    described = [
        one
        for one in form.walk()
        if place.attributes.get("id", "preview") in one.attributes.get("aria-describedby", "").split()
    ]
    assert described
    assert any(one.attributes.get("aria-invalid") == "true" for one in form.walk())
    assert site.application.schedules.all() == (kept,)


def test_scripts_that_cannot_be_split_into_words_are_told_at_their_field(site: Site) -> None:
    form = form_of(refused(site.user(Role.ADMINISTRATOR), pre_script="say 'it", post_script="a\x00b"))
    assert form.one(id="pre_script-error").text.startswith("“say 'it” cannot be used.")
    assert form.one(id="post_script-error").text.startswith("“a\\x00b” cannot be used.")
    assert all("open" in one.attributes for one in form.all("details") if one.all(id="pre_script"))


def test_all_that_is_wrong_is_told_at_once_and_nothing_that_was_typed_is_lost(site: Site) -> None:
    typed: dict[str, Any] = FORM | {
        "name": "",
        "vms": ["web", "no such"],
        "other_vms": "third\nfourth",
        "type": "monthly",
        "day": "45",
        "clock": "09:41",
        "minute": "7",
        "cron": "1 2 3",
        "weekday": "thursday",
        "mode": "snapshot",
        "repository": "nas",
        "retention": "own",
        "keep_last": "0",
        "keep_weekly": "many",
    }
    page = refused(site.user(), **typed)
    form = form_of(page)
    assert "Nothing was saved: 4 fields must be corrected." in form.one(role="alert").text
    assert [one["id"] for one in form.all("p", class_="field-error") if "id" in one.attributes] == [
        "name-error",
        "keep_last-error",
        "keep_weekly-error",
    ]
    sent = form.fields()
    for name, value in typed.items():
        assert sent[name] == (value if isinstance(value, list) else [value]), name
    assert [one["name"] for one in form.walk() if "autofocus" in one.attributes] == ["name"]


def test_in_french_errors_are_french(site: Site) -> None:
    page = refused(site.user(language="fr"), clock="25:00", name="")
    narrow = "\N{NARROW NO-BREAK SPACE}"
    assert (
        page.one(id="preview")
        .text.replace(narrow, " ")
        .startswith("« 25:00 » ne convient pas. Attendu : HH:MM, par exemple 02:00 pour une planification daily.")
    )
    assert page.one(id="name-error").text.replace(narrow, " ") == (
        "Attendu : un nom de 1 à 100 caractères, sans caractères de contrôle."
    )


def test_the_preview_follows_what_is_typed(site: Site) -> None:
    user = site.user()
    shown = user.get("/schedules/preview?type=monthly&day=31&clock=04:00")
    times = [
        datetime.fromisoformat(one["datetime"]) for one in shown.all("time") if "data-time" not in one.attributes
    ]
    assert times == site.application.schedules.next_times(
        Schedule("", "", (), ScheduleType.MONTHLY.value, "31:04:00"), 5
    )
    wrong = user.get("/schedules/preview?type=monthly&day=32&clock=04:00")
    assert wrong.one(class_="field-error").text.startswith("“32:04:00” cannot be used.")
    assert wrong.all("time") == []


def test_vms_are_searched_on_the_server_and_shown_with_state_and_size(site: Site) -> None:
    site.know(*(f"vm{n:03}" for n in range(120)), "db", virtual_size=3 * 1024**3)
    user = site.user()
    labels = user.get("/schedules/vms?vm_search=DB").all("label")
    assert [label.text for label in labels] == ["db 3 GiB powered on"]
    many = user.get("/schedules/vms?vm_search=vm")
    assert [box["value"] for box in many.all("input")] == [f"vm{n:03}" for n in range(50)]
    assert "first 50" in many.one("p").text


def test_a_name_that_no_vm_has_is_offered_all_the_same(site: Site) -> None:
    site.know("web")
    user = site.user()
    assert user.get("/schedules/vms?vm_search=ghost").one("button", name="add")["value"] == "ghost"
    assert user.get("/schedules/vms?vm_search=web").all("button") == []


def test_without_scripts_vms_are_searched_and_chosen_by_sending_the_form_again(site: Site) -> None:
    site.know("db", "web1", "web2")
    user = site.user()
    typed = filled(user.get("/schedules/new"), name="Mine", vms=["db"], vm_search="web", clock="05:55")
    searched = parse(user.post("/schedules/form", typed | {"do": "search"}).text)
    assert form_of(searched).fields()["vms"] == ["db"]
    assert {box["value"] for box in searched.one(data_vm_results="").all("input")} == {"web1", "web2"}
    every = parse(user.post("/schedules/form", filled(searched, do="all")).text)
    assert form_of(every).fields()["vms"] == ["db", "web1", "web2"]
    added = parse(user.post("/schedules/form", filled(every, add="ghost")).text)
    assert form_of(added).fields()["vms"] == ["db", "web1", "web2", "ghost"]
    assert "does not know it yet" in added.one(class_="chips").all("label")[-1].text
    assert form_of(added).fields()["clock"] == ["05:55"]
    user.post("/schedules", filled(added))
    assert site.application.schedules.all()[0].vm_names == ("db", "web1", "web2", "ghost")


def test_a_schedule_of_a_thousand_vms_is_made_and_edited_and_one_more_is_refused(site: Site) -> None:
    names = [f"vm{n:04}" for n in range(1000)]
    user = site.user()
    made_at = user.post("/schedules", FORM | {"vms": names}).headers["location"]
    page = user.get(f"{made_at}/edit")
    assert user.post(f"{made_at}/edit", filled(page, name="All")).status_code == 303
    assert site.application.schedules.all()[0].vm_names == tuple(names)
    refusal = user.post(f"{made_at}/edit", filled(user.get(f"{made_at}/edit"), other_vms="one more"))
    assert "at most 1000 VMs" in parse(refusal.text).one(id="vms-error").text


def test_in_the_dialog_over_the_list_a_new_schedule_closes_it_and_lets_the_list_look_again(site: Site) -> None:
    user = site.user()
    dialog = user.get("/schedules/new", headers=DIALOG)
    assert dialog.all("html") == []
    form = form_of(dialog)
    assert (form["hx-post"], form["hx-target"]) == ("/schedules", "#dialog-body")
    answer = user.post("/schedules", filled(dialog, name="Mine", vms=["web"]), headers=DIALOG)
    assert (answer.status_code, answer.headers["hx-trigger"]) == (200, "schedules-changed")
    left = parse(answer.text)
    assert [part.attributes.get("hx-swap-oob") for part in left.content if isinstance(part, Element)] == ["innerHTML"]
    assert "Mine is planned" in left.text


def test_in_a_dialog_over_another_page_a_new_schedule_leads_to_its_page(site: Site) -> None:
    user = site.user()
    answer = user.post("/schedules", FORM, headers=DIALOG | {"hx-current-url": "http://localhost/vms/x"})
    assert answer.status_code == 204
    assert answer.headers["hx-redirect"] == f"/schedules/{site.application.schedules.all()[0].id}"


@pytest.mark.parametrize(
    "at",
    [
        ("hourly", "07"),
        ("daily", "2:50"),
        ("weekly", "mercredi:03:00"),
        ("monthly", "31:04:00"),
        ("cron", "30 2 * * 1-5"),
    ],
)
def test_saving_a_form_that_nobody_changed_changes_nothing(site: Site, at: tuple[str, str]) -> None:
    made = site.add("Mine", "a", "b", at=at, mode="full", repository="nas", keep={"last": "3"}, pre_script="x 'y z'")
    before = site.application.schedules.find(made.id)
    user = site.user(Role.ADMINISTRATOR)
    answer = user.post(f"/schedules/{made.id}/edit", filled(user.get(f"/schedules/{made.id}/edit")))
    assert answer.status_code == 303
    after = site.application.schedules.find(made.id)
    assert after.timing == before.timing
    assert (after.name, after.vm_names, after.backup_mode, after.next_run) == (
        before.name,
        before.vm_names,
        before.backup_mode,
        before.next_run,
    )
    assert (after.repository, after.retention, after.pre_script) == (
        before.repository,
        before.retention,
        before.pre_script,
    )


def test_an_edit_changes_what_was_typed_and_keeps_state_and_history(site: Site) -> None:
    made = site.add("Mine")
    site.application.schedules.record_run(made.id, datetime.now(UTC).replace(microsecond=0), succeeded=False)
    site.application.schedules.disable(made.id)
    user = site.user()
    page = user.get(f"/schedules/{made.id}/edit")
    typed = filled(page, name="Other", type="weekly", weekday="monday", retention="own", keep_daily="5")
    assert user.message(user.post(f"/schedules/{made.id}/edit", typed)).startswith(
        "Other is saved: every Monday at 02:00."
    )
    after = site.application.schedules.find(made.id)
    assert (after.name, after.schedule_time, after.retention.daily) == ("Other", "monday:02:00", 5)
    assert (after.enabled, after.status, after.created_at) == (False, "failed", made.created_at)


def test_a_schedule_with_a_time_that_cannot_be_used_is_shown_so_and_can_be_corrected(site: Site) -> None:
    site.application.schedule_file.update(lambda _: [Schedule("abc", "Broken", ("web",), "daily", "26:00")])
    user = site.user()
    page = user.get("/schedules/abc/edit")
    assert page.one(id="preview").all(class_="field-error")
    assert user.post("/schedules/abc/edit", filled(page, clock="02:00")).status_code == 303
    assert site.application.schedules.find("abc").schedule_time == "02:00"


def test_what_somebody_changed_meanwhile_is_not_overwritten_but_shown(site: Site) -> None:
    made = site.add("Mine", "web", "db")
    user = site.user()
    mine = filled(user.get(f"/schedules/{made.id}/edit"), name="My new name")
    site.application.schedules.edit(made.id, Changes(schedule_time="05:00", vm_names=["web"]))
    page = refused(user, f"/schedules/{made.id}/edit", 409, **mine)
    alert = page.one("form", data_schedule_form="").one(role="alert")
    assert "Mine was changed by somebody else meanwhile" in alert.text
    assert {pair.one("dt").text: pair.one("dd").text for pair in alert.one("dl").all("div")} == {
        "Name": "Mine",
        "Virtual machines": "web",
        "When": "every day at 05:00",
    }
    assert form_of(page).fields()["name"] == ["My new name"]
    assert site.application.schedules.find(made.id).name == "Mine"
    assert user.post(f"/schedules/{made.id}/edit", filled(page)).status_code == 303
    after = site.application.schedules.find(made.id)
    assert (after.name, after.schedule_time, after.vm_names) == ("My new name", "02:00", ("web", "db"))


def test_that_it_ran_or_was_disabled_meanwhile_is_no_conflict(site: Site) -> None:
    made = site.add("Mine")
    user = site.user()
    mine = filled(user.get(f"/schedules/{made.id}/edit"), name="Other")
    site.application.schedules.record_run(made.id, datetime.now(UTC), succeeded=True)
    site.application.schedules.disable(made.id)
    assert user.post(f"/schedules/{made.id}/edit", mine).status_code == 303


def test_without_the_version_that_was_seen_an_edit_is_refused(site: Site) -> None:
    made = site.add("Mine")
    assert site.user().post(f"/schedules/{made.id}/edit", FORM).status_code == 409
    assert site.application.schedules.find(made.id) == made


def test_what_was_typed_about_a_schedule_that_is_gone_can_become_a_new_one(site: Site) -> None:
    made = site.add("Mine")
    user = site.user()
    mine = filled(user.get(f"/schedules/{made.id}/edit"), clock="06:00")
    site.application.schedules.remove(made.id)
    page = refused(user, f"/schedules/{made.id}/edit", 404, **mine)
    assert "there is no such schedule" in page.one("form", data_schedule_form="").one(role="alert").text.lower()
    assert user.post(form_of(page)["action"], filled(page)).status_code == 303
    assert [(one.name, one.schedule_time) for one in site.application.schedules.all()] == [("Mine", "06:00")]


def test_a_file_that_was_damaged_meanwhile_is_told_in_the_form_and_nothing_typed_is_lost(site: Site) -> None:
    made = site.add("Mine")
    user = site.user()
    mine = filled(user.get(f"/schedules/{made.id}/edit"), name="Other")
    damaged = site.file.read_text() + "oops"
    site.file.write_text(damaged)
    for url, fields in ((f"/schedules/{made.id}/edit", mine), ("/schedules", FORM | {"name": "Other"})):
        page = refused(user, url, 503, **fields)
        assert "line" in form_of(page).one(role="alert").text
        assert form_of(page).fields()["name"] == ["Other"]
    assert site.file.read_text() == damaged


def test_only_an_administrator_sees_and_sets_scripts(site: Site) -> None:
    made = site.add("Mine", pre_script="/bin/before 'a b'")
    operator = site.user()
    page = operator.get(f"/schedules/{made.id}/edit")
    assert "pre_script" not in form_of(page).fields()
    assert "/bin/before 'a b'" in form_of(page).text
    assert operator.post(f"/schedules/{made.id}/edit", filled(page, name="Other")).status_code == 303
    assert site.application.schedules.find(made.id).pre_script == ("/bin/before", "a b")
    for url, fields in (
        (f"/schedules/{made.id}/edit", filled(operator.get(f"/schedules/{made.id}/edit"), pre_script="/bin/evil")),
        (f"/schedules/{made.id}/edit", filled(operator.get(f"/schedules/{made.id}/edit"), post_script="")),
        ("/schedules", FORM | {"name": "New", "post_script": "/bin/evil"}),
    ):
        answer = operator.post(url, fields)
        assert answer.status_code == 403
        assert "scripts run as root" in answer.text.lower()
    assert [one.pre_script for one in site.application.schedules.all()] == [("/bin/before", "a b")]
    administrator = site.user(Role.ADMINISTRATOR)
    page = administrator.get(f"/schedules/{made.id}/edit")
    assert administrator.post(f"/schedules/{made.id}/edit", filled(page, pre_script="")).status_code == 303
    assert site.application.schedules.find(made.id).pre_script == ()


def test_a_folder_that_a_schedule_writes_to_already_stays_a_choice(site: Site) -> None:
    made = site.add("Mine", repository="/mnt/usb/vms")
    user = site.user()
    page = user.get(f"/schedules/{made.id}/edit")
    assert user.post(f"/schedules/{made.id}/edit", filled(page, name="Other")).status_code == 303
    assert site.application.schedules.find(made.id).repository == "/mnt/usb/vms"
    page = user.get(f"/schedules/{made.id}/edit")
    assert user.post(f"/schedules/{made.id}/edit", filled(page, repository="/etc")).status_code == 422


def test_the_page_of_a_schedule_shows_its_plan_times_vms_and_runs(site: Site) -> None:
    site.know("web")
    made = site.add("Mine", "web", "ghost", keep={"last": "24"}, repository="nas", pre_script="/bin/before 'a b'")
    now = datetime.now(UTC)
    old = site.ran(made, "web", RunState.FAILED, now - timedelta(hours=1))
    going = site.ran(made, "ghost", RunState.RUNNING, now)
    other = site.ran(site.add("Other"), "db", RunState.SUCCEEDED, now)
    page = site.user().get(f"/schedules/{made.id}").one(id="schedule")
    facts = {pair.one("dt").text: pair.one("dd").text for pair in page.one("dl", class_="facts").all("div")}
    assert facts["Repository"] == "nas"
    assert facts["Keeps"] == "the newest 24 points"
    assert facts["Script before"] == "/bin/before 'a b'"
    assert len(page.one("ol", class_="times").all("li")) == 5
    assert "This host knows no VM called ghost yet." in page.one("div", class_="warning").text
    assert [item.text for item in page.one(class_="vm-list").all("li")] == ["web powered on", "ghost not known here"]
    links = {link["href"] for link in page.all("a")}
    assert {f"/runs/{old.id}", f"/runs/{going.id}", f"/runs?schedule={made.id}"} <= links
    assert f"/runs/{other.id}" not in links


def test_before_the_hosts_vms_were_listed_none_is_called_unknown(site: Site) -> None:
    made = site.add("Mine", "ghost")
    page = site.user().get(f"/schedules/{made.id}")
    assert "knows no VM" not in page.text
    assert "not known here" not in page.text


def test_a_disabled_schedule_tells_when_it_would_run(site: Site) -> None:
    made = site.add("Mine")
    site.application.schedules.disable(made.id)
    page = site.user().get(f"/schedules/{made.id}")
    assert "It is disabled. Enabled, it would run at these times:" in page.text
    assert len(page.one("ol", class_="times").all("li")) == 5


def test_a_page_of_no_schedule_is_not_found(site: Site) -> None:
    made = site.add("Mine")
    for wanted in ("nothing", made.id[:8], ""):
        assert site.user().client.get(f"/schedules/{wanted}").status_code == 404


def with_remotes(site: Site) -> None:
    """Two servers copy the default repository."""
    remotes = [{"name": name, "url": f"ssh://me@{name}/x", "of": "default"} for name in ("nas", "away")]
    told = {"state_dir": str(site.application.settings.state_dir), "timezone": "Europe/Paris", "repository": remotes}
    vars(site.application)["at_start"] = check(told, None)


def test_without_servers_the_form_does_not_ask_where_points_are_shipped(site: Site) -> None:
    assert "Where its points are shipped" not in site.user().get("/schedules/new").text


@pytest.mark.parametrize(
    ("chosen", "stored", "told"),
    [
        ({"ship": "default", "ship_to": ["nas"]}, None, "every server that copies its repository"),
        ({"ship": "chosen", "ship_to": ["away", "nas"]}, ("away", "nas"), "away, nas"),
        ({"ship": "chosen"}, (), "nowhere"),
        ({"ship": "none", "ship_to": ["nas"]}, (), "nowhere"),
    ],
)
def test_where_points_are_shipped_is_chosen_and_shown(
    site: Site, chosen: dict[str, object], stored: tuple[str, ...] | None, told: str
) -> None:
    with_remotes(site)
    operator = site.user()
    operator.message(operator.post("/schedules", {**FORM, **chosen}))
    [made] = site.application.schedules.all()
    assert made.ship_to == stored
    assert told in operator.get(f"/schedules/{made.id}").text
    form = operator.get(f"/schedules/{made.id}/edit")
    names = {one.attributes["value"] for one in form.all("input", name="ship_to") if "checked" in one.attributes}
    assert names == set(stored or ())


def test_a_server_that_settings_name_no_longer_is_marked_where_points_would_be_shipped(site: Site) -> None:
    without = site.application.settings
    with_remotes(site)
    made = site.add(ship_to=["away", "nas"])
    assert "not in the settings" not in site.user().get(f"/schedules/{made.id}").text
    vars(site.application)["at_start"] = without
    page = site.user().get(f"/schedules/{made.id}").text
    assert "away (not in the settings)" in page


def test_a_server_that_is_not_there_is_refused_at_its_field(site: Site) -> None:
    with_remotes(site)
    answer = site.user().post("/schedules", {**FORM, "ship": "chosen", "ship_to": ["nas", "moon"]})
    assert answer.status_code == 422
    assert 'id="ship_to-error"' in answer.text
    assert 'value="moon" checked' in answer.text
