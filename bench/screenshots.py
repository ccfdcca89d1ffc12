"""`python -m bench.screenshots`: takes the pictures of the dashboard for the README, of a fleet that is not there."""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from playwright.sync_api import Browser, Page, sync_playwright

from bench.fleet import fill, write_settings
from bench.fleet_host import GIB, Fleet, FleetSchedule, FleetVm
from bench.page_server import PageServer
from kvm_backup.database.waiting_points import WaitingPoints
from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import RunResult, RunState, Trigger
from kvm_backup.domain.task import BackupTask, ShipTask

CHROMIUM = Path("/usr/bin/chromium")
IMAGES = Path(__file__).parents[1] / "docs" / "images"
_RUNS = 900
_POINTS = 7
_WAITS_OF = 4
_PATIENCE = 60.0
_USUAL_FOLDER = "place => { place.textContent = '/var/lib/kvm-backup/repository' }"
_WIDE = {"width": 1280, "height": 860}
_PHONE = {"width": 390, "height": 844}
_VMS = (
    ("web-01", 12),
    ("web-02", 12),
    ("base-clients", 64),
    ("courrier", 40),
    ("annuaire", 10),
    ("erp", 80),
    ("fichiers", 60),
    ("gitea", 20),
    ("supervision", 16),
    ("recette", 12),
)
_SCHEDULES = (
    ("Nuit : production", "daily", "02:00", Mode.INCREMENTAL, ("base-clients", "courrier", "annuaire", "erp")),
    ("Nuit : sites web", "daily", "03:30", Mode.INCREMENTAL, ("web-01", "web-02")),
    ("Base clients, avant l'ouverture", "daily", "06:30", Mode.INCREMENTAL, ("base-clients",)),
    ("Fichiers, tous les soirs", "daily", "21:15", Mode.INCREMENTAL, ("fichiers", "gitea")),
    ("Complète du dimanche", "weekly", "sunday:04:00", Mode.FULL, ("erp", "supervision")),
    ("Fin de mois", "monthly", "31:23:00", Mode.FULL, ("base-clients",)),
)
_REMOTES = (
    ("nas", "ssh://sauvegarde@nas.exemple.fr/srv/kvm-backup/alpha"),
    ("coffre", "ssh://alpha@coffre.exemple.net/sauvegardes"),
)


def main(arguments: Sequence[str]) -> int:
    """Parse and take them; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.screenshots", description=__doc__)
    parser.add_argument("--to", type=Path, default=IMAGES, help="the folder for the pictures (default: docs/images)")
    to: Path = parser.parse_args(arguments).to
    to.mkdir(parents=True, exist_ok=True)
    arguments_of_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        state_dir = Path(folder) / "state"
        state_dir.mkdir()
        os.environ["KVM_BACKUP_CONFIG"] = str(write_settings(state_dir, None, _REMOTES))
        fill(state_dir, small_fleet(), _RUNS, _POINTS, _WAITS_OF)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--lang=fr", *arguments_of_root])
        with PageServer(state_dir) as server, going_on(server) as run_id:
            ships(server)
            take(browser, server, run_id, to)
        browser.close()
    for path in sorted(to.glob("*.png")):
        print(f"{path.stat().st_size >> 10:5} KiB  {path}")
    return 0


def small_fleet() -> Fleet:
    """Ten VMs with names that speak; one is in no schedule, and the backups of one fail."""
    vms = {
        name: FleetVm(
            name=name,
            uuid=str(UUID(int=0x1A2B_0000_0000_4000_8000_0000_0000_0000 + number * 0x9E37_79B9_7F4A, version=4)),
            size=size * GIB,
            running=True,
            fails=name == "gitea",
            never=False,
        )
        for number, (name, size) in enumerate(_VMS)
    }
    schedules = [
        FleetSchedule(f"{number:08x}" * 4, name, kind, time, mode, [vms[vm] for vm in names])
        for number, (name, kind, time, mode, names) in enumerate(_SCHEDULES, start=0x5EED)
    ]
    return Fleet(list(vms.values()), schedules, seed=7)


@contextmanager
def going_on(server: PageServer) -> Iterator[str]:
    """A backup that seems to copy while the pictures are taken; its id."""
    history = server.application.history
    uuid = next(vm.uuid for vm in small_fleet().vms if vm.name == "fichiers")
    run_id = server.ask("fichiers", uuid, BackupTask(Mode.INCREMENTAL), Trigger.WEB)
    history.start(run_id)
    for step in ("prepare", "begin", "copy"):
        history.step_started(run_id, step)
    history.decided(run_id, RunResult(mode=Mode.INCREMENTAL))
    ended = threading.Event()

    def copy() -> None:
        done, total = 3 * GIB, 8 * GIB
        while not ended.wait(1.0):
            done += 130 << 20
            history.progress(run_id, min(done, total), total)

    thread = threading.Thread(target=copy)
    thread.start()
    try:
        yield run_id
    finally:
        ended.set()
        thread.join()


def take(browser: Browser, server: PageServer, run_id: str, to: Path) -> None:
    """Every picture."""
    vm = next(vm.uuid for vm in small_fleet().vms if vm.name == "base-clients")
    with window(browser, server, "fr-FR") as page:
        shoot(page, f"/runs/{run_id}", to / "run-fr.png", wait=".progress-figures span:nth-of-type(3)")
        shoot(page, "/", to / "overview-fr.png")
        shoot(page, "/schedules", to / "schedules-fr.png")
        page.get_by_role("link", name="Nouvelle Planification").click()
        dialog = page.get_by_role("dialog")
        dialog.locator("[name=name]").fill("Supervision, chaque semaine")
        dialog.locator("[data-vm-results] label", has_text="supervision").get_by_role("checkbox").check()
        dialog.get_by_role("radio", name="Chaque semaine").check()
        dialog.locator("[data-preview] li", has_text="Dimanche").nth(4).wait_for()
        page.screenshot(path=to / "new-schedule-fr.png")
        page.goto("/repositories")
        page.locator("#live-state.live").wait_for()
        page.locator("code", has_text=str(server.application.settings.state_dir)).evaluate(_USUAL_FOLDER)
        page.screenshot(path=to / "repositories-fr.png", full_page=True)
    with window(browser, server, "en-GB", color_scheme="dark") as page:
        shoot(page, f"/vms/{vm}", to / "vm-en-dark.png")
    with window(browser, server, "fr-FR", viewport=_PHONE) as page:
        shoot(page, "/", to / "overview-phone-fr.png")


def ships(server: PageServer) -> None:
    """One shipment that seems to go on, and others that wait for their turn."""
    application = server.application
    history = application.history
    until = time.monotonic() + _PATIENCE
    while not (waiting := WaitingPoints(application.database, application.host).page()):
        if time.monotonic() > until:
            raise SystemExit("nothing waits to be shipped")
        time.sleep(0.1)
    for number, line in enumerate(waiting):
        task = ShipTask(line.folder)
        run_id = server.ask(line.vm_name, line.vm_uuid, task, Trigger.SERVICE, line.remote)
        if number == 0:
            for remote, _address in _REMOTES:
                arrived = server.ask(line.vm_name, line.vm_uuid, task, Trigger.SERVICE, remote)
                history.start(arrived)
                history.finish(arrived, RunState.SUCCEEDED, RunResult(bytes_read=GIB, bytes_stored=GIB // 3))
            history.start(run_id)
            history.step_started(run_id, "ship")
            history.progress(run_id, line.bytes * 2 // 5, line.bytes)


@contextmanager
def window(browser: Browser, server: PageServer, locale: str, **options: Any) -> Iterator[Page]:
    """A page of somebody who is signed in."""
    settings: dict[str, Any] = {"viewport": _WIDE, "timezone_id": "Europe/Paris", "reduced_motion": "reduce"}
    context = browser.new_context(base_url=server.url, locale=locale, **settings | options)
    context.add_cookies([{"name": name, "value": value, "url": server.url} for name, value in server.cookies.items()])
    yield context.new_page()
    context.close()


def shoot(page: Page, path: str, to: Path, wait: str = "#live-state.live") -> None:
    """The picture of what a window shows of a page, once it is live."""
    page.goto(path)
    page.locator(wait).first.wait_for()
    page.screenshot(path=to)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
