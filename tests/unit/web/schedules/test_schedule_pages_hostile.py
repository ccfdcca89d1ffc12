"""Names, scripts and files that were made to hurt are shown as the texts that they are, and do nothing else."""

from urllib.parse import quote

import pytest

from kvm_backup.domain.account import Role
from kvm_backup.domain.run import RunState
from kvm_backup.domain.schedule import Schedule
from tests.unit.web.schedules.conftest import FORM, Site, User
from tests.unit.web.schedules.markup import Element, parse

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"><svg onload='alert(1)'>",
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "${7*7} #{7*7} {name!r} {0.__class__} %s",
    "../../etc/passwd",
    "//evil.example/x",
    "javascript:alert(1)",
    "a&amp;lt;b&#60;",
    "--help; rm -rf / $(reboot) `id`",
]
ALLOWED = {"htmx-config", "viewport", "color-scheme"}


def check_harmless(page: Element) -> None:
    """Nothing of a page may run: no script but our files, no handler, no address that is a script or of elsewhere."""
    for one in page.walk():
        assert one.tag not in ("img", "iframe", "object", "b"), one
        if one.tag == "script":
            assert one["src"].startswith("/static/")
            assert one.text == ""
        for name, value in one.attributes.items():
            assert not name.startswith("on"), (one.tag, name)
            if name in ("href", "src", "action", "formaction") or name in ("hx-get", "hx-post"):
                assert value.startswith(("/", "#")), (one.tag, name, value)
                assert not value.startswith("//"), (one.tag, name, value)


def pages_of(user: User, schedule_id: str) -> list[Element]:
    at = f"/schedules/{quote(schedule_id, safe='')}"
    return [user.get(url) for url in ("/schedules", at, f"{at}/edit", f"{at}/delete")]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_shown_as_they_are_and_nothing_of_them_runs(site: Site, text: str) -> None:
    site.know(f"{text} known")
    user = site.user(Role.ADMINISTRATOR)
    scripts = {"pre_script": f"/bin/x {text!r}" if "'" not in text else "/bin/x", "post_script": "/bin/y '<b>'"}
    fields = FORM | scripts | {"name": text, "vms": [text, f"{text} known"]}
    answer = user.post("/schedules", fields)
    assert answer.status_code == 303, parse(answer.text).one("main").text
    made = site.application.schedules.all()[0]
    assert (made.name, made.vm_names) == (text, (text, f"{text} known"))
    site.ran(made, text, RunState.SUCCEEDED)
    told = user.get(answer.headers["location"])
    assert text in told.one(id="messages").text
    check_harmless(told)
    listed, shown, form, question = pages_of(user, made.id)
    for page in (listed, shown, form, question):
        check_harmless(page)
    plain = " ".join(text.split())
    assert plain in listed.one("tbody").one("th").one("a").text
    assert shown.one("h1").text == plain
    assert plain in shown.one(class_="vm-list").text
    assert form.one("form", data_schedule_form="").fields()["name"] == [text]
    assert form.one("form", data_schedule_form="").fields()["vms"] == [text, f"{text} known"]
    assert plain in question.one("h1").text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_in_a_form_that_is_refused_come_back_as_they_are(site: Site, text: str) -> None:
    typed = dict.fromkeys(("clock", "day", "minute", "cron", "weekday", "other_vms", "vm_search", "revision"), text)
    user = site.user()
    answer = user.post("/schedules", FORM | typed | {"type": "cron", "retention": "own", "keep_last": text})
    assert answer.status_code == 422
    page = parse(answer.text)
    check_harmless(page)
    sent = page.one("form", data_schedule_form="").fields()
    assert {
        name: sent[name][0] for name in ("clock", "day", "minute", "cron", "other_vms", "vm_search", "keep_last")
    } == dict.fromkeys(("clock", "day", "minute", "cron", "other_vms", "vm_search", "keep_last"), text)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_searches_and_previews_are_harmless(site: Site, text: str) -> None:
    site.add()
    user = site.user()
    wanted = quote(text, safe="")
    for url in (
        f"/schedules?q={wanted}&state={wanted}&type={wanted}&sort={wanted}",
        f"/schedules/vms?vm_search={wanted}",
        f"/schedules/preview?type={wanted}&cron={wanted}",
        f"/schedules/preview?type=cron&cron={wanted}",
        f"/schedules/kept?repository={wanted}",
        f"/schedules/new?vms={wanted}",
    ):
        check_harmless(user.get(url))


@pytest.mark.parametrize("text", ["a\nb", "a\r\nSet-Cookie: x=1", "a\x00b", "a\u202eb", "a\x1b[2Jb"])
def test_control_characters_are_refused_in_names_and_told_visibly(site: Site, text: str) -> None:
    user = site.user()
    answer = user.post("/schedules", FORM | {"name": text, "vms": [text]})
    assert answer.status_code == 422
    assert "set-cookie" not in answer.headers
    page = parse(answer.text)
    for place in ("name-error", "vms-error"):
        assert page.one(id=place).text.isprintable()
    assert site.stored() == []


def test_ids_of_a_file_that_was_edited_by_hand_lead_to_their_own_schedule(site: Site) -> None:
    ids = ["a/b", "../x", "a?b=c#d", "<b>", "a b", "é", "x/edit"]
    site.application.schedule_file.update(
        lambda _: [Schedule(own, f"name of {own}", ("web",), "daily", "02:00") for own in ids]
    )
    user = site.user()
    links = [
        link["href"] for link in user.get("/schedules").one("tbody").all("a") if link["href"].endswith("/delete")
    ]
    assert len(links) == len(ids)
    for own in ids:
        at = f"/schedules/{quote(own, safe='')}"
        assert f"{at}/delete" in links
        assert user.get(f"{at}/delete").one("h1").text == f"Delete name of {own}?"
        assert user.post(f"{at}/disable").status_code == 303
        assert not site.application.schedules.find(own).enabled


def test_the_damaged_part_of_a_file_is_told_as_text(site: Site) -> None:
    user = site.user()
    site.file.write_text(
        '[{"id": "x", "name": "<script>alert(1)</script>", "vm_names": [], "schedule_type": "<b>", "x": 1, "x": 2}]'
    )
    page = user.get("/schedules")
    check_harmless(page)
    assert page.one(class_="message").text


def test_a_form_without_the_token_of_the_session_changes_nothing(site: Site) -> None:
    made = site.add()
    user = site.user()
    for url in (
        "/schedules",
        f"/schedules/{made.id}/edit",
        f"/schedules/{made.id}/delete",
        f"/schedules/{made.id}/disable",
    ):
        assert user.client.post(url, data=FORM).status_code == 403
    assert site.application.schedules.all() == (made,)


def test_a_form_with_more_fields_than_ours_or_with_files_is_refused(site: Site) -> None:
    user = site.user()
    assert user.post("/schedules", FORM | {"vms": ["x"] * 4000}).status_code == 400
    answer = user.client.post(
        "/schedules", files={"name": ("x", b"y")}, data=FORM, headers={"x-csrf-token": user.token}
    )
    assert answer.status_code in (400, 422)
    assert site.stored() == []
