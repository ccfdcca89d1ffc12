"""What somebody does with the dashboard in French, in one session on real VMs: what changes shows by itself."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from kvm_backup.domain.point import Mode
from kvm_backup.services.schedules.commands import NewSchedule
from lab import Lab, LabVm, compare_images
from tests.acceptance.dashboard_house import House, house, show
from tests.acceptance.service import until
from tests.browser import chromium, keep, sign_in, window
from tests.unit.web.dashboard import PASSWORD, Dashboard, running

pytestmark = pytest.mark.vm

FRENCH = {"locale": "fr-FR", "timezone_id": "Europe/Paris", "viewport": {"width": 1280, "height": 900}}
LINK = re.compile(r"https?://\S+/setup/\S+")
KINDS = {
    "daily": ("Chaque jour", {"clock": "02:15"}, "02:15"),
    "weekly": ("Chaque semaine", {"weekday": "sunday", "clock": "03:30"}, "Dimanche"),
    "monthly": ("Chaque mois", {"day": "31", "clock": "04:45"}, "04:45"),
    "hourly": ("Chaque heure", {"minute": "20"}, ":20"),
    "cron": ("Cron", {"cron": "5 6 * * 1-5"}, "06:05"),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def home(module_lab: Lab) -> Iterator[House]:
    with house(module_lab) as open_house:
        yield open_house


@pytest.fixture(scope="module")
def session(browser: Browser, home: House) -> Iterator[Page]:
    """One session for all tests of this file, begun as that of the first administrator is."""
    link = home.dashboard.wait_for_line(LINK)[0]
    # A form that is refused is an answer with such a status, which the browser notes.
    refused = "status of 4(09|22)|Status Error Code 4(09|22)"
    with window(browser, home.dashboard.url, forgiven=refused, **FRENCH) as page:
        page.goto(link)
        page.get_by_label("Nom d'utilisateur").fill("camille")
        page.get_by_label("Mot de passe", exact=True).fill(PASSWORD)
        page.get_by_label("Le même mot de passe, encore une fois").fill(PASSWORD)
        page.get_by_role("button", name="Enregistrer et se connecter").click()
        expect(page.get_by_role("heading", name="Vue d'ensemble")).to_be_visible()
        yield page


@pytest.fixture
def page(session: Page) -> Iterator[Page]:
    """The session; what a test left open is closed, so that the next one begins anew."""
    yield session
    session.goto("about:blank")


@pytest.fixture(scope="module")
def point(home: House) -> Path:
    """The folder of a point of the small VM."""
    application = home.dashboard.application
    run = application.queue.backup(home.small.uuid, Mode.FULL)
    until(lambda: application.history.get(run.id).state.final, "end the backup")
    made = application.history.get(run.id).point
    assert made is not None
    return home.repository / made


def new_schedule(page: Page, name: str, kind: str, *vms: LabVm) -> Locator:
    """The dialog, filled in but not sent."""
    page.get_by_role("link", name="➕ Nouvelle Planification").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Nom", exact=True).fill(name)
    search = dialog.get_by_label("Chercher une VM")
    for vm in vms:
        search.fill(vm.name)
        dialog.locator("[data-vm-results] label", has_text=vm.name).get_by_role("checkbox").check()
    word, fields, _shown = KINDS[kind]
    dialog.get_by_role("radio", name=word).check()
    for field, value in fields.items():
        control = dialog.locator(f"[name={field}]")
        if field == "weekday":
            control.select_option(value)
        else:
            control.fill(value)
    return dialog


def row(page: Page, name: str) -> Locator:
    return page.locator("tbody tr", has_text=name)


def test_the_first_start_leads_by_a_link_to_an_account_and_pages_tell_the_first_step(
    browser: Browser, tmp_path: Path
) -> None:
    with (
        running(Dashboard(tmp_path / "state")) as empty,
        window(browser, empty.url, forgiven="status of 4", **FRENCH) as page,
    ):
        link = empty.wait_for_line(LINK)[0]
        page.goto("/")
        expect(page.locator("main")).to_contain_text("kvm-backup user add")
        page.goto(link)
        page.get_by_label("Nom d'utilisateur").fill("camille")
        page.get_by_label("Mot de passe", exact=True).fill(PASSWORD)
        page.get_by_label("Le même mot de passe, encore une fois").fill(PASSWORD)
        page.get_by_role("button", name="Enregistrer et se connecter").click()
        expect(page.get_by_role("heading", name="Commencez par une planification")).to_be_visible()
        steps = {
            "Sauvegardes Programmées": "Aucune sauvegarde n'est encore planifiée",
            "Tâches de sauvegarde": "Rien n'a encore tourné",
        }
        for entry, step in steps.items():
            page.get_by_role("navigation").get_by_role("link", name=entry).click()
            expect(page.get_by_role("heading", name=step)).to_be_visible()
        page.locator(".tools summary").click()
        page.get_by_role("button", name="Se déconnecter").click()
        sign_in(page, "camille", PASSWORD)
        page.goto(link)
        expect(page.locator("main")).not_to_contain_text("Le même mot de passe")


@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_of_each_kind_is_made_in_the_dialog_which_shows_its_next_times(
    page: Page, home: House, kind: str
) -> None:
    show(page, "/schedules")
    name = f"Chaque fois ({kind})"
    dialog = new_schedule(page, name, kind, home.small)
    times = dialog.locator("[data-preview] li")
    expect(times).to_have_count(5)
    expect(times.first).to_contain_text(KINDS[kind][2])
    keep(page, f"schedule-dialog-{kind}")
    dialog.get_by_role("button", name="Créer").click()
    expect(dialog).to_be_hidden()
    expect(row(page, name)).to_contain_text(home.small.name)
    made = next(one for one in home.dashboard.application.schedules.all() if one.name == name)
    assert (made.schedule_type, made.vm_names, made.enabled) == (kind, (home.small.name,), True)


def test_what_is_wrong_is_told_at_its_field_and_nothing_typed_is_lost(page: Page, home: House) -> None:
    show(page, "/schedules")
    dialog = new_schedule(page, "Sans VM", "cron")
    dialog.locator("[name=cron]").fill("61 * * * *")
    expect(dialog.locator("[data-preview] .field-error")).to_be_visible()
    dialog.get_by_role("button", name="Créer").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Rien n'a été enregistré")
    expect(dialog.locator("#vms-error")).to_be_visible()
    expect(dialog.locator("[name=cron]")).to_have_value("61 * * * *")
    expect(dialog.get_by_label("Nom", exact=True)).to_have_value("Sans VM")
    assert "Sans VM" not in {one.name for one in home.dashboard.application.schedules.all()}


def test_a_schedule_is_run_now_seen_to_progress_and_finish_disabled_enabled_and_deleted(
    page: Page, home: House
) -> None:
    show(page, "/schedules")
    dialog = new_schedule(page, "La nuit", "daily", home.large)
    dialog.get_by_role("button", name="Créer").click()
    one = row(page, "La nuit")
    one.get_by_role("button", name="Exécuter maintenant").click()
    expect(one.locator(".results")).to_contain_text("en cours")
    expect(one.locator(".results")).to_contain_text("réussie")
    one.get_by_role("button", name="Désactiver").click()
    expect(one).to_contain_text("désactivée")
    one.get_by_role("button", name="Activer").click()
    expect(one).to_contain_text("planifiée")
    one.get_by_role("link", name="Supprimer").click()
    page.get_by_role("dialog").get_by_role("button", name="Supprimer").click()
    expect(one).to_have_count(0)
    assert "La nuit" not in {one.name for one in home.dashboard.application.schedules.all()}
    assert len(home.points(home.large)) == 1


def succeeded(page: Page) -> None:
    """The page of a run, until it tells that the run succeeded."""
    expect(page.locator("#run .badge").first).to_have_text("réussie")


def test_a_vm_is_backed_up_by_its_button_and_the_page_of_the_run_shows_the_progress(page: Page, home: House) -> None:
    show(page, f"/vms?q={home.large.name}")
    before = len(home.points(home.large))
    page.get_by_role("button", name=f"💾 Sauvegarder {home.large.name}").click()
    page.wait_for_url("**/runs/*")
    expect(page.locator("#messages")).to_contain_text("La sauvegarde est en file")
    bar = page.locator("#run progress[value]")
    bar.wait_for()
    keep(page, "run-in-progress")
    succeeded(page)
    expect(bar).to_have_count(0)
    expect(page.locator(".steps li")).to_have_count(5)
    expect(page.locator("#run-log")).to_contain_text("copy")
    keep(page, "run-finished")
    assert len(home.points(home.large)) == before + 1
    page.locator("#run a[href^='/points/']").click()
    expect(page.get_by_role("heading", name=home.large.name)).to_be_visible()


def test_a_snapshot_is_taken_by_its_button_and_shown_among_the_points(page: Page, home: House) -> None:
    show(page, f"/vms?q={home.small.name}")
    page.get_by_role("button", name=f"📷 Snapshot {home.small.name}").click()
    succeeded(page)
    page.get_by_role("link", name="La machine virtuelle").click()
    expect(page.locator("#vm tbody .mode.snapshot").first).to_be_visible()
    assert home.small.disk("vda").name != "petite.raw"


def test_a_backup_is_asked_for_in_the_dialog_and_cancelled_while_it_copies(page: Page, home: House) -> None:
    before = home.points(home.large)
    show(page, f"/vms/{home.large.uuid}")
    page.get_by_role("link", name="Sauvegarder").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("radio", name="Complète").check()
    dialog.get_by_role("button", name="Démarrer").click()
    page.wait_for_url("**/runs/*")
    page.locator("#run progress[value]").wait_for()
    # The page shows each new step by itself: wait until it has shown that of the copy, so that the button stays.
    expect(page.locator("#run .steps li").nth(2)).to_be_visible()
    page.get_by_role("button", name="Annuler").click()
    expect(page.locator("#run .badge").first).to_have_text("annulée")
    assert home.points(home.large) == before
    page.get_by_role("button", name="Relancer").wait_for()


def test_a_point_is_restored_as_a_new_vm_which_libvirt_then_has(page: Page, home: House, point: Path) -> None:
    name = home.lab.full_name("ressuscitée")
    show(page, f"/vms/{home.small.uuid}")
    page.locator(f'a[href$="{point.name}"]').last.click()
    page.get_by_role("link", name="Restaurer").click()
    dialog = page.get_by_role("dialog")
    field = dialog.get_by_label("Nom de la nouvelle machine virtuelle")
    field.fill(home.small.name)
    dialog.get_by_role("button", name="Restaurer").click()
    expect(dialog.locator("#name-error")).to_contain_text(home.small.name)
    expect(field).to_have_value(home.small.name)
    field.fill(name)
    dialog.locator("summary").click()
    dialog.locator("[name=disks_in]").fill(str(home.lab.folder))
    dialog.get_by_role("button", name="Restaurer").click()
    page.wait_for_url("**/runs/*")
    succeeded(page)
    restored = home.lab.adopt(name)
    assert restored.uuid != home.small.uuid
    compare_images(restored.disk("vda"), point / "vda.qcow2")
    show(page, f"/vms?q={name}")
    expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()


def test_a_point_is_verified_and_its_disk_downloaded(page: Page, home: House, point: Path, tmp_path: Path) -> None:
    url = f"/points/default/{point.parent.name}/{point.name}"
    show(page, url)
    page.get_by_role("button", name="Vérifier", exact=True).click()
    page.wait_for_url("**/runs/*")
    succeeded(page)
    page.goto(url)
    with page.expect_download() as download:
        page.get_by_role("link", name="Télécharger vda").click()
    got = tmp_path / "vda.qcow2"
    download.value.save_as(got)
    assert download.value.suggested_filename.endswith(".qcow2")
    subprocess.run(["qemu-img", "check", "-q", got], check=True)
    compare_images(got, point / "vda.qcow2")


def test_a_failure_appears_as_an_alert_on_an_open_page_and_is_acknowledged(page: Page, home: House) -> None:
    application = home.dashboard.application
    gone = home.lab.create_vm("disparue", guest=False)
    application.schedules.add(NewSchedule("Perdue", [gone.name], "daily", "02:00", "full"))
    show(page, "/")
    expect(page.locator("#alert-count .count")).to_have_count(0)
    gone.destroy()
    gone.domain.undefine()
    application.queue.schedule(next(one.id for one in application.schedules.all() if one.name == "Perdue"))
    expect(page.locator("#alert-count .count")).to_contain_text("1")
    alert = page.locator(".alerts li", has_text="disparue").first
    expect(alert).to_be_visible()
    keep(page, "alert")
    alert.get_by_role("button", name="Prendre acte").click()
    expect(page.locator("#messages")).to_contain_text("alerte")
    expect(page.locator("#alert-count .count")).to_have_count(0)
    page.get_by_role("navigation").get_by_role("link", name="Alertes").click()
    expect(page.locator(".alert.seen", has_text="camille")).to_be_visible()
