"""Pages of a VM and of its points tell where disks are, and offer nothing that cannot work."""

from urllib.parse import quote

import pytest

from kvm_backup.config.repository import RepositorySettings
from kvm_backup.domain.account import Role
from kvm_backup.domain.inventory import VmRecord
from kvm_backup.domain.point import Manifest
from kvm_backup.domain.vm import VmState
from kvm_backup.domain.waiting import Unshippable
from kvm_backup.repository.elsewhere import mark_elsewhere, remove_images
from tests.unit.builders import VM_UUID, Shelf
from tests.unit.web.hostile import EVIL, is_text
from tests.unit.web.schedules.conftest import Site

REMOTES = [
    RepositorySettings.model_validate({"name": name, "url": f"ssh://{name}/srv", "of": "nas"})
    for name in ("far", "away")
]


@pytest.fixture
def shelf(site: Site) -> Shelf:
    """A repository that two remotes copy."""
    settings = site.application.settings
    told = settings.model_copy(update={"repository": (*settings.repository, *REMOTES)})
    vars(site.application)["at_start"] = told
    return Shelf(told.repositories()["nas"])


def take(shelf: Shelf, point: Manifest, *to: str) -> Manifest:
    folder = shelf.repository.path_of(point.id)
    mark_elsewhere(folder, to)
    remove_images(folder, point)
    return point


def at(point: Manifest) -> str:
    folder, stamp = point.id.split("/")
    return f"/points/nas/{quote(folder, safe='')}/{stamp}"


def test_a_point_page_tells_where_the_disks_are_and_offers_no_restore_from_here(site: Site, shelf: Shelf) -> None:
    point = take(shelf, shelf.add(), "far", "away")
    user = site.user()
    page = user.get(at(point))
    assert "no longer here, but in repository away, far" in page.text
    assert "dans le dépôt away, far" in site.user(language="fr").get(at(point)).text
    links = {link["href"] for link in page.one("main").all("a")}
    assert not {at(point) + "/restore", at(point) + "/disks/vda.qcow2"} & links


def test_the_page_of_the_vm_tells_where_the_disks_of_its_points_are(site: Site, shelf: Shelf) -> None:
    points = [take(shelf, shelf.add(), "far"), take(shelf, shelf.add()), shelf.add()]
    site.application.catalogue.refresh(site.application.repository("nas"))
    site.application.inventory.save([VmRecord(VM_UUID, "web", VmState.RUNNING)])
    section = site.user().get(f"/vms/{VM_UUID}").one("section", aria_labelledby="points-title")
    rows = section.one("tbody").all("tr")
    stored = {row.one("th").one("a")["href"]: row.one("td", data_label="Stored").text for row in rows}
    assert [stored[at(point)].split()[-1] for point in points] == ["far", "lost", "KiB"]
    offered = {link["href"] for link in section.all("a") if link["href"].endswith("/restore")}
    assert offered == {at(points[2]) + "/restore"}


def test_a_remote_that_settings_name_no_longer_is_marked_and_what_helps_is_told(site: Site, shelf: Shelf) -> None:
    only_old, also_known = take(shelf, shelf.add(), "old"), take(shelf, shelf.add(), "far", "old")
    site.application.catalogue.refresh(site.application.repository("nas"))
    site.application.inventory.save([VmRecord(VM_UUID, "web", VmState.RUNNING)])
    user = site.user()
    page = user.get(at(only_old))
    assert "in repository old (not in the settings)" in page.text
    assert "kvm-backup repository add old" in page.text
    assert "Restore and check it from there" not in page.text
    assert "old (absent des réglages)" in site.user(language="fr").get(at(only_old)).text
    known = user.get(at(also_known))
    assert "far, old (not in the settings)" in known.text
    assert "Restore and check it from there" in known.text
    section = user.get(f"/vms/{VM_UUID}").one("section", aria_labelledby="points-title")
    (_newer, older) = section.one("tbody").all("tr")
    for label in ("Stored", "Where"):
        assert "old (not in the settings)" in older.one("td", data_label=label).text


def test_a_lost_point_is_told(site: Site, shelf: Shelf) -> None:
    point = take(shelf, shelf.add())
    assert "It is lost" in site.user().get(at(point)).text
    assert "Il est perdu" in site.user(language="fr").get(at(point)).text


@pytest.mark.parametrize("child", [False, True], ids=["its own disks", "those that it builds on"])
def test_what_needs_disks_that_are_elsewhere_is_refused_with_where_they_are(
    site: Site, shelf: Shelf, child: bool
) -> None:
    point = shelf.add()
    asked = shelf.add(point) if child else point
    take(shelf, point, "far")
    user = site.user(Role.ADMINISTRATOR)
    answer = user.post(at(asked) + "/restore", {"way": "folder", "to": "/nowhere/at/all"})
    assert answer.status_code == 409
    assert "--repository far" in answer.text
    assert site.application.history.newest() == []
    download = user.client.get(at(asked) + "/disks/vda.qcow2")
    assert download.status_code == 409
    assert "--repository far" in download.text


def test_a_name_on_a_mark_is_text(site: Site, shelf: Shelf) -> None:
    point = take(shelf, shelf.add(), EVIL)
    for language in ("en", "fr"):
        is_text(site.user(Role.ADMINISTRATOR, language).get(at(point)), EVIL)


def test_the_page_of_the_vm_tells_what_cannot_be_shipped_and_at_which_point(site: Site, shelf: Shelf) -> None:
    older, newest = shelf.add(), shelf.add()
    folder = newest.id.partition("/")[0]
    site.application.shipping.facts.unshippable.save(
        [
            Unshippable("far", folder, "web", VM_UUID, (older.id, newest.id), next_full=True),
            Unshippable("unnamed", folder, "web", VM_UUID, (older.id,)),
        ]
    )
    site.application.catalogue.refresh(site.application.repository("nas"))
    site.application.inventory.save([VmRecord(VM_UUID, "web", VmState.RUNNING)])
    section = site.user().get(f"/vms/{VM_UUID}").one("section", aria_labelledby="points-title")
    assert "2 points cannot be shipped to far" in section.text
    assert section.text.count("The next backup will be a full one") == 1
    assert "unnamed" not in section.text
    where = [row.one("td", data_label="Where").text for row in section.one("tbody").all("tr")]
    assert [" ".join(text.split()) for text in where] == ["here far cannot be shipped there"] * 2
    french = site.user(language="fr").get(f"/vms/{VM_UUID}").text
    assert "2 points ne peuvent pas être envoyés vers far" in french
