"""Schedules in a real browser, on the real service and a libvirt of many VMs (its test driver): in both languages, by
keyboard, beside somebody else, and without JavaScript."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from kvm_backup.bootstrap import Application
from kvm_backup.domain.account import Role
from kvm_backup.domain.schedule import Schedule
from kvm_backup.services.schedules.commands import Changes, NewSchedule
from tests.acceptance.service import until
from tests.browser import barriers, chromium, keep, overflow, sign_in, window
from tests.unit.web.dashboard import PASSWORD, Dashboard, running

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
REFUSED = "status of 4(09|22)|Status Error Code 4(09|22)"
"""What the browser notes of a form that is refused."""
DOMAIN = (
    "<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory>1048576</memory><os><type>hvm</type></os>"
    "<devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/images/{name}.qcow2'/>"
    "<target dev='vda' bus='virtio'/></disk></devices></domain>"
)
VMS = [f"web-{number:02}" for number in range(70)] + ["db-01", "db-02"]


@dataclass(frozen=True)
class Words:
    """What a page says in one language."""

    locale: str
    title: str
    new: str
    create: str
    save: str
    kinds: dict[str, str]
    when: dict[str, str]
    disable: str
    enable: str
    delete: str
    edit: str
    disabled: str
    scheduled: str
    warning: str


FRENCH = Words(
    locale="fr-FR",
    title="Sauvegardes Programmées",
    new="➕ Nouvelle Planification",
    create="Créer",
    save="Enregistrer",
    kinds={
        "hourly": "Chaque heure",
        "daily": "Chaque jour",
        "weekly": "Chaque semaine",
        "monthly": "Chaque mois",
        "cron": "Cron",
    },
    when={
        "hourly": "Chaque heure à la minute 20",
        "daily": "Chaque jour à 02 h 15",
        "weekly": "Chaque dimanche à 02 h 15",
        "monthly": "Chaque mois, le 31 à 02 h 15",
        "cron": "Cron 30 2 * * 1-5",
    },
    disable="Désactiver",
    enable="Activer",
    delete="Supprimer",
    edit="Modifier",
    disabled="désactivée",
    scheduled="planifiée",
    warning="Cet hôte ne connaît pas encore de VM nommée fantôme",
)
ENGLISH = Words(
    locale="en-GB",
    title="Scheduled backups",
    new="➕ New schedule",
    create="Create",
    save="Save",
    kinds={
        "hourly": "Every hour",
        "daily": "Every day",
        "weekly": "Every week",
        "monthly": "Every month",
        "cron": "Cron",
    },
    when={
        "hourly": "Every hour at minute 20",
        "daily": "Every day at 02:15",
        "weekly": "Every Sunday at 02:15",
        "monthly": "Every month on day 31 at 02:15",
        "cron": "Cron 30 2 * * 1-5",
    },
    disable="Disable",
    enable="Enable",
    delete="Delete",
    edit="Edit",
    disabled="disabled",
    scheduled="scheduled",
    warning="This host knows no VM called fantôme yet",
)
TIMES = {
    "hourly": {"minute": "20"},
    "daily": {"clock": "02:15"},
    "weekly": {"weekday": "sunday", "clock": "02:15"},
    "monthly": {"day": "31", "clock": "02:15"},
    "cron": {"cron": "30 2 * * 1-5"},
}
STORED = {
    "hourly": "20",
    "daily": "02:15",
    "weekly": "sunday:02:15",
    "monthly": "31:02:15",
    "cron": "30 2 * * 1-5",
}
BOTH = pytest.mark.parametrize("words", [FRENCH, ENGLISH], ids=["fr", "en"])


@dataclass
class Opener:
    """Opens windows of somebody who is signed in."""

    browser: Browser
    url: str
    cookies: str

    def __call__(self, words: Words = ENGLISH, **options: Any) -> AbstractContextManager[Page]:
        given: dict[str, Any] = {"viewport": WIDE, "forgiven": REFUSED, "locale": words.locale} | options
        return window(self.browser, self.url, storage_state=json.loads(self.cookies), **given)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """A service that has looked at its VMs, and its administrator."""
    folder = tmp_path_factory.mktemp("schedules")
    domains = folder / "domains.xml"
    listed = [DOMAIN.format(name=name, uuid=UUID(int=number + 1)) for number, name in enumerate(VMS)]
    domains.write_text("<node>" + "".join(listed) + "</node>")
    with running(Dashboard(folder / "state", {"KVM_BACKUP_LIBVIRT__URI": f"test://{domains}"})) as dashboard:
        application = dashboard.application
        application.accounts.add("camille", Role.ADMINISTRATOR, PASSWORD)
        until(lambda: application.inventory.host_facts().listed is not None, "list its VMs")
        yield dashboard


@pytest.fixture
def application(server: Dashboard) -> Application:
    """The same state folder without a schedule, whatever a test before has left."""
    server.application.schedule_file.path.write_text("[]")
    return server.application


@pytest.fixture(scope="module")
def signed_in(browser: Browser, server: Dashboard) -> str:
    """The cookies of somebody who signed in once, for all windows."""
    with window(browser, server.url) as page:
        sign_in(page, "camille", PASSWORD)
        return json.dumps(page.context.storage_state())


@pytest.fixture
def open_page(browser: Browser, server: Dashboard, signed_in: str, application: Application) -> Opener:
    return Opener(browser, server.url, signed_in)


def row(page: Page, name: str) -> Locator:
    return page.locator("tbody tr", has_text=name)


def in_place(page: Page) -> None:
    """Mark the page, so that a reload would be noticed."""
    page.evaluate("window.sameAsBefore = true")


def was_not_loaded_again(page: Page) -> bool:
    return bool(page.evaluate("window.sameAsBefore === true"))


def choose_time(dialog: Locator, words: Words, kind: str) -> None:
    dialog.get_by_role("radio", name=words.kinds[kind]).check()
    for field, value in TIMES[kind].items():
        control = dialog.locator(f"[name={field}]")
        control.select_option(value) if field == "weekday" else control.fill(value)


def choose_vm(dialog: Locator, name: str) -> None:
    dialog.locator("[name=vm_search]").fill(name)
    expect(dialog.locator("[data-vm-results] label")).to_have_count(1)
    dialog.locator("[data-vm-results] label", has_text=name).get_by_role("checkbox").check()


@BOTH
@pytest.mark.parametrize("kind", TIMES)
def test_each_kind_is_made_in_the_dialog_edited_disabled_enabled_and_deleted_without_loading_the_page_again(
    open_page: Opener, application: Application, words: Words, kind: str
) -> None:
    with open_page(words) as page:
        page.goto("/schedules")
        expect(page.get_by_role("heading", level=1)).to_have_text(words.title)
        in_place(page)
        page.get_by_role("link", name=words.new).first.click()
        dialog = page.get_by_role("dialog")
        dialog.locator("[name=name]").fill("Nuit")
        choose_vm(dialog, "db-01")
        choose_time(dialog, words, kind)
        typed = Schedule("", "", (), kind, STORED[kind])
        coming = [moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in application.schedules.next_times(typed, 5)]
        for time, expected in zip(dialog.locator("[data-preview] li > time").all(), coming, strict=True):
            expect(time).to_have_attribute("datetime", expected)
        assert [part.is_visible() for part in dialog.locator(".time-part").all()].count(True) == len(TIMES[kind])
        keep(page, f"schedule-{kind}-{words.locale[:2]}")
        dialog.get_by_role("button", name=words.create).click()
        expect(dialog).to_be_hidden()
        one = row(page, "Nuit")
        expect(one).to_contain_text(words.when[kind])
        expect(one).to_contain_text(words.scheduled)
        expect(one).to_contain_text("db-01")

        one.get_by_role("link", name=words.edit).click()
        expect(dialog.locator("[name=name]")).to_have_value("Nuit")
        expect(dialog.locator(".chip")).to_have_text(["db-01"])
        for field, value in TIMES[kind].items():
            expect(dialog.locator(f"[name={field}]")).to_have_value(value)
        dialog.locator("[name=name]").fill("Autre nuit")
        dialog.get_by_role("button", name=words.save).click()
        expect(dialog).to_be_hidden()
        one = row(page, "Autre nuit")

        one.get_by_role("button", name=words.disable).click()
        expect(one).to_contain_text(words.disabled)
        expect(one.get_by_role("button", name=words.enable)).to_be_focused()
        one.get_by_role("button", name=words.enable).click()
        expect(one).to_contain_text(words.scheduled)
        made = application.schedules.all()[0]
        assert (made.name, made.schedule_type, made.vm_names, made.enabled) == ("Autre nuit", kind, ("db-01",), True)

        one.get_by_role("link", name=words.delete).click()
        expect(dialog.get_by_role("heading")).to_contain_text("Autre nuit")
        dialog.get_by_role("button", name=words.delete).click()
        expect(dialog).to_be_hidden()
        expect(one).to_have_count(0)
        assert was_not_loaded_again(page)
    assert application.schedules.all() == ()


@BOTH
def test_vms_that_were_chosen_stay_while_others_are_searched(
    open_page: Opener, application: Application, words: Words
) -> None:
    with open_page(words) as page:
        page.goto("/schedules")
        page.get_by_role("link", name=words.new).first.click()
        dialog = page.get_by_role("dialog")
        found, chips = dialog.locator("[data-vm-results] label"), dialog.locator(".chip")
        expect(found).to_have_count(50)
        choose_vm(dialog, "db-01")
        dialog.locator("[name=vm_search]").fill("web-1")
        expect(found).to_have_count(10)
        dialog.locator("[data-chooses-all]").click()
        expect(chips).to_have_count(11)
        dialog.locator("[name=vm_search]").fill("fantôme")
        dialog.locator("[data-adds-vm]").click()
        expect(chips).to_have_count(12)
        expect(dialog.locator("[name=vm_search]")).to_be_focused()
        dialog.locator("[name=vm_search]").fill("web-1")
        expect(found).to_have_count(10)
        expect(dialog.locator("[data-vm-results] :checked")).to_have_count(10)
        chips.filter(has_text="web-15").click()
        expect(chips).to_have_count(11)
        expect(dialog.locator("[data-vm-results] :checked")).to_have_count(9)
        expect(dialog.locator("[data-count]")).to_contain_text("11")
        dialog.locator("[name=name]").fill("Plusieurs")
        dialog.get_by_role("button", name=words.create).click()
        expect(page.locator("#messages")).to_contain_text(words.warning)
    wanted = ["db-01", *(f"web-1{digit}" for digit in range(10) if digit != 5), "fantôme"]
    assert sorted(application.schedules.all()[0].vm_names) == sorted(wanted)


@BOTH
def test_what_is_wrong_is_told_at_its_field_and_the_first_one_has_the_focus(
    open_page: Opener, application: Application, words: Words
) -> None:
    with open_page(words, bypass_csp=True) as page:
        page.goto("/schedules")
        page.get_by_role("link", name=words.new).first.click()
        dialog = page.get_by_role("dialog")
        dialog.locator("[name=name]").fill("Faux")
        dialog.get_by_role("radio", name="Cron").check()
        dialog.locator("[name=cron]").fill("1 2 3")
        expect(dialog.locator("[data-preview] .field-error")).to_contain_text("1 2 3")
        dialog.get_by_role("button", name=words.create).click()
        expect(dialog.locator("#vms-error")).to_be_visible()
        expect(dialog.locator("[name=vm_search]")).to_be_focused()
        expect(dialog.locator("[name=cron]")).to_have_value("1 2 3")
        expect(dialog.locator("[name=name]")).to_have_value("Faux")
        assert barriers(page) == []
        keep(page, f"schedule-wrong-{words.locale[:2]}")
        choose_vm(dialog, "db-02")
        dialog.locator("[name=cron]").fill("1 2 3 * *")
        dialog.get_by_role("button", name=words.create).click()
        expect(row(page, "Faux")).to_be_visible()


def test_the_dialog_is_used_by_keyboard_alone_and_gives_the_focus_back(
    open_page: Opener, application: Application
) -> None:
    with open_page() as page:
        application.schedules.add(NewSchedule("There", ["db-01"], "daily", "02:00", "full"))
        page.goto("/schedules")
        page.get_by_role("link", name=ENGLISH.new).focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        expect(dialog.locator("[name=name]")).to_be_focused()
        page.keyboard.type("By keys")
        page.keyboard.press("Escape")
        expect(dialog).to_be_visible()
        page.keyboard.press("Tab")
        expect(dialog.locator("[name=vm_search]")).to_be_focused()
        page.keyboard.type("db-02")
        expect(dialog.locator("[data-vm-results] label")).to_have_count(1)
        page.keyboard.press("Enter")
        expect(dialog).to_be_visible()
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        expect(dialog.locator(".chip")).to_have_text(["db-02"])
        dialog.get_by_role("radio", name="Every day").focus()
        page.keyboard.press("ArrowRight")
        expect(dialog.locator("[name=weekday]")).to_be_visible()
        dialog.locator("[name=name]").focus()
        page.keyboard.press("Enter")
        expect(row(page, "By keys")).to_contain_text("Every Sunday at 02:00")
        expect(page.get_by_role("link", name=ENGLISH.new)).to_be_focused()


def test_a_form_in_which_nothing_was_typed_closes_with_escape(open_page: Opener) -> None:
    with open_page() as page:
        page.goto("/schedules")
        page.get_by_role("link", name=ENGLISH.new).first.click()
        dialog = page.get_by_role("dialog")
        expect(dialog.locator("form")).to_be_visible()
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()


def test_an_edit_of_what_somebody_changed_meanwhile_shows_it_and_saves_only_when_asked_again(
    open_page: Opener, application: Application
) -> None:
    made = application.schedules.add(NewSchedule("Shared", ["db-01"], "daily", "02:00", "full"))
    with open_page() as page:
        page.goto(f"/schedules/{made.id}")
        page.get_by_role("link", name=ENGLISH.edit).click()
        dialog = page.get_by_role("dialog")
        dialog.locator("[name=name]").fill("Mine")
        application.schedules.edit(made.id, Changes(schedule_time="05:00"))
        dialog.get_by_role("button", name=ENGLISH.save).click()
        alert = dialog.get_by_role("alert")
        expect(alert).to_contain_text("changed by somebody else")
        expect(alert).to_contain_text("every day at 05:00")
        expect(alert).to_be_focused()
        assert application.schedules.find(made.id).name == "Shared"
        dialog.get_by_role("button", name=ENGLISH.save).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Mine")
    assert application.schedules.find(made.id).schedule_time == "02:00"


def test_an_open_list_follows_the_command_line_and_a_file_that_is_damaged_and_mended(
    open_page: Opener, application: Application
) -> None:
    with open_page() as page:
        page.goto("/schedules")
        page.locator("#live-state.live").wait_for()
        in_place(page)
        made = application.schedules.add(NewSchedule("From elsewhere", ["db-01"], "daily", "02:00", "full"))
        one = row(page, "From elsewhere")
        expect(one).to_be_visible()
        good = application.schedule_file.path.read_text()
        application.schedule_file.path.write_text(good.replace("daily", '"daily'))
        expect(page.locator("#schedules .message")).to_contain_text("line 6")
        expect(one).to_be_visible()
        expect(one.get_by_role("button")).to_have_count(0)
        keep(page, "schedules-damaged")
        application.schedule_file.path.write_text(good)
        expect(one.get_by_role("button", name=ENGLISH.disable)).to_be_visible()
        application.schedules.disable(made.id)
        expect(one).to_contain_text(ENGLISH.disabled)
        application.schedules.remove(made.id)
        expect(page.locator(".empty")).to_be_visible()
        assert was_not_loaded_again(page)


def test_the_list_is_searched_while_one_types(open_page: Opener, application: Application) -> None:
    for name in ("One", "Two"):
        application.schedules.add(NewSchedule(name, ["db-01"], "daily", "02:00", "full"))
    with open_page() as page:
        page.goto("/schedules")
        page.get_by_role("searchbox").fill("tw")
        expect(row(page, "One")).to_have_count(0)
        expect(row(page, "Two")).to_be_visible()
        expect(page).to_have_url(f"{open_page.url}/schedules?q=tw&type=")
        expect(page.get_by_role("searchbox")).to_be_focused()
        page.go_back()
        expect(row(page, "One")).to_be_visible()


@BOTH
def test_all_of_it_works_without_javascript(open_page: Opener, application: Application, words: Words) -> None:
    with open_page(words, java_script_enabled=False) as page:
        page.goto("/schedules")
        page.get_by_role("link", name=words.new).first.click()
        page.locator("[name=name]").fill("Sans script")
        page.locator("[name=vm_search]").fill("web-1")
        page.locator("button[value=search]").click()
        page.locator("button[value=all]").click()
        expect(page.locator(".chip")).to_have_count(10)
        page.get_by_role("radio", name=words.kinds["weekly"]).check()
        page.locator("button[value=times]").click()
        expect(page.locator("#preview li")).to_have_count(5)
        page.get_by_role("button", name=words.create).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Sans script")
        page.get_by_role("button", name=words.disable).click()
        expect(page.locator("#schedule")).to_contain_text(words.disabled)
        page.get_by_role("link", name=words.edit).click()
        page.locator("[name=name]").fill("Toujours sans")
        page.get_by_role("button", name=words.save).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Toujours sans")
        page.get_by_role("link", name=words.delete).click()
        page.get_by_role("button", name=words.delete).click()
        expect(page.locator(".empty")).to_be_visible()
    assert application.schedules.all() == ()


@BOTH
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_kept_out_and_nothing_is_wider_than_its_window(
    open_page: Opener, application: Application, words: Words, size: dict[str, int], scheme: str
) -> None:
    long = "Une planification dont le nom est très long_et_dont_un_mot_ne_finit_pas_du_tout_" + "x" * 15
    made = application.schedules.add(NewSchedule(long, [*VMS[:5], "inconnue"], "monthly", "31:04:00", "snapshot"))
    application.schedules.disable(
        application.schedules.add(NewSchedule("Arrêtée", ["db-01"], "cron", "1 2 * * 3", "full")).id
    )
    with open_page(words, viewport=size, color_scheme=scheme, bypass_csp=True) as page:
        for path in (
            "/schedules",
            "/schedules?q=rien",
            f"/schedules/{made.id}",
            "/schedules/new",
            f"/schedules/{made.id}/delete",
        ):
            page.goto(path)
            assert (barriers(page), overflow(page)) == ([], 0), path
            if path != "/schedules?q=rien":
                shown = "one" if made.id in path else path.strip("/").replace("/", "-")
                keep(page, f"{shown}-{words.locale[:2]}-{size['width']}-{scheme}")
        page.goto("/schedules")
        page.get_by_role("link", name=words.new).click()
        expect(page.get_by_role("dialog").locator("[name=name]")).to_be_focused()
        assert (barriers(page), overflow(page)) == ([], 0)
        keep(page, f"dialog-{words.locale[:2]}-{size['width']}-{scheme}")
