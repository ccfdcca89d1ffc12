"""One restore point: what its page tells, the forms to restore it, the download, and who may."""

from typing import cast
from urllib.parse import quote

import pytest

from kvm_backup.domain.account import Role
from kvm_backup.domain.point import Manifest
from kvm_backup.domain.vm import Vm, VmState
from kvm_backup.hypervisor.connection import Hypervisor
from tests.unit.builders import VM_UUID, Shelf
from tests.unit.web.hostile import EVIL, is_text
from tests.unit.web.schedules.conftest import Site
from tests.unit.web.schedules.markup import parse

WAYS = ("new-vm", "in-place", "folder")


@pytest.fixture
def shelf(site: Site) -> Shelf:
    return Shelf(site.application.settings.repositories()["nas"])


@pytest.fixture
def point(shelf: Shelf) -> Manifest:
    return shelf.add()


def look_through(site: Site) -> None:
    """As the service does, so that pages know what is there."""
    site.application.catalogue.refresh(site.application.repository("nas"))


def at(point: Manifest) -> str:
    folder, stamp = point.id.split("/")
    return f"/points/nas/{quote(folder, safe='')}/{stamp}"


def test_the_page_tells_disks_chain_and_how_to_restore_by_hand(site: Site, shelf: Shelf, point: Manifest) -> None:
    newer = shelf.add(point)
    look_through(site)
    user = site.user()
    page = user.get(at(newer))
    assert at(point) in [link["href"] for link in page.one("section", aria_labelledby="chain-title").all("a")]
    assert f"qemu-img convert -O qcow2 '{shelf.root}/{newer.id}/vda.qcow2'" in page.text
    assert "1 newer point builds on this one." in user.get(at(point)).text
    assert "1 point plus récent" in site.user(language="fr").get(at(point)).text


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR, Role.ADMINISTRATOR])
def test_each_role_is_offered_what_it_may_do(site: Site, point: Manifest, role: Role) -> None:
    user = site.user(role)
    links = [link["href"] for link in user.get(at(point)).one("main").all("a")]
    offered = {rest for rest in ("/restore", "/disks/vda.qcow2") if at(point) + rest in links}
    assert offered == (set() if role is Role.VIEWER else {"/restore", "/disks/vda.qcow2"})
    if role is not Role.VIEWER:
        ways = [link["href"].partition("way=")[2] for link in user.get(at(point) + "/restore").one("main").all("a")]
        assert ("folder" in ways) is (role is Role.ADMINISTRATOR)


def test_a_viewer_may_neither_restore_nor_verify_nor_download(site: Site, point: Manifest) -> None:
    viewer = site.user(Role.VIEWER)
    assert viewer.client.get(at(point) + "/restore").status_code == 403
    assert viewer.client.get(at(point) + "/disks/vda.qcow2").status_code == 403
    for verb in ("restore", "verify"):
        assert viewer.post(f"{at(point)}/{verb}", {"way": "new-vm", "name": "x"}).status_code == 403
    assert site.application.history.newest() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"way": "folder", "to": "/tmp/anywhere"},
        {"way": "new-vm", "name": "new", "disks_in": "/etc"},
        {"way": "in-place", "confirm": "web", "disks_in": "/etc"},
    ],
)
def test_only_an_administrator_says_where_files_are_written(
    site: Site, point: Manifest, fields: dict[str, str]
) -> None:
    answer = site.user(Role.OPERATOR).post(at(point) + "/restore", fields)
    assert answer.status_code == 403
    assert site.application.history.newest() == []


@pytest.mark.parametrize(
    ("fields", "field", "told"),
    [
        ({"way": "new-vm", "name": "  "}, "name", "has no name"),
        ({"way": "in-place", "confirm": "we"}, "confirm", "is not confirmed"),
        ({"way": "folder", "to": "not/absolute"}, "to", ""),
        ({"way": "new-vm", "name": "new", "disks_in": "not/absolute"}, "disks_in", "no absolute path"),
        ({"way": "new-vm", "name": " ", "disks_in": "not/absolute"}, "name", "has no name"),
        ({"way": "in-place", "confirm": "web", "disks_in": "not/absolute"}, "disks_in", "no absolute path"),
    ],
)
def test_what_is_wrong_is_told_at_its_field_and_stays_typed(
    site: Site, point: Manifest, fields: dict[str, str], field: str, told: str
) -> None:
    user = site.user(Role.ADMINISTRATOR)
    answer = user.post(at(point) + "/restore", fields)
    assert answer.status_code in (400, 409, 422), answer.text
    page = parse(answer.text)
    assert told in page.one(id=f"{field}-error").text
    assert page.one("main").one("form").fields()[field] == [fields[field]]
    assert site.application.history.newest() == []


class Host:
    """In place of libvirt: the VM of the point runs."""

    def vm(self, _name: str) -> Vm:
        return Vm("web", VM_UUID, VmState.RUNNING, ())


def test_the_form_for_in_place_tells_that_the_vm_is_left_off(site: Site, point: Manifest) -> None:
    at_form = f"{at(point)}/restore?way="
    assert "virsh start web" in site.user().get(f"{at_form}in-place").text
    assert "le reste ensuite" in site.user(language="fr").get(f"{at_form}in-place").text
    assert "virsh start" not in site.user().get(f"{at_form}new-vm").text


def test_a_vm_that_runs_and_may_not_be_stopped_is_told_at_that_box(site: Site, point: Manifest) -> None:
    vars(site.application)["hypervisor"] = cast("Hypervisor", Host())
    answer = site.user().post(at(point) + "/restore", {"way": "in-place", "confirm": "web"})
    assert answer.status_code == 409, answer.text
    told = parse(answer.text).one(id="stop-error").text
    assert "is running" in told
    assert "ask to have it stopped" in told
    assert site.application.history.newest() == []


def test_a_way_that_is_none_is_refused_and_shown_as_the_first(site: Site, point: Manifest) -> None:
    user = site.user(Role.ADMINISTRATOR)
    assert user.get(f"{at(point)}/restore?way={quote(EVIL)}").one("main").one("form").fields()["way"] == ["new-vm"]
    answer = user.post(at(point) + "/restore", {"way": EVIL})
    assert 400 <= answer.status_code < 500
    is_text(parse(answer.text), "")


def test_another_way_keeps_what_was_typed_in_this_one_but_no_confirmation(site: Site, point: Manifest) -> None:
    user = site.user(Role.ADMINISTRATOR)
    form = f"{at(point)}/restore"
    sent = "way=in-place&name=n%26w&start=1&disks_in=/srv/a&to=/srv/b&image_format=raw&confirm=web&foreign=1"
    page = user.get(f"{form}?{sent}").one("main")
    fields = page.one("form").fields()
    assert (fields["disks_in"], fields["confirm"]) == (["/srv/a"], [""])
    assert "stop" not in fields
    [back] = [link["href"] for link in page.all("a") if "way=new-vm" in link.attributes.get("href", "")]
    there = user.get(back).one("main").one("form").fields()
    assert (there["name"], there["start"]) == (["n&w"], ["1"])
    [folder] = [link["href"] for link in page.all("a") if "way=folder" in link.attributes.get("href", "")]
    fields = user.get(folder).one("main").one("form").fields()
    assert (fields["to"], fields["image_format"]) == (["/srv/b"], ["raw"])


def test_what_a_link_says_was_typed_is_text(site: Site, point: Manifest) -> None:
    user = site.user(Role.ADMINISTRATOR)
    sent = "&".join(f"{field}={quote(EVIL)}" for field in ("name", "start", "stop", "disks_in", "to", "image_format"))
    for way in WAYS:
        is_text(user.get(f"{at(point)}/restore?way={way}&{sent}"), "")


def test_a_disk_is_sent_as_a_file_with_its_length(site: Site, point: Manifest) -> None:
    answer = site.user().client.get(at(point) + "/disks/vda.qcow2")
    assert answer.status_code == 200
    assert answer.content.startswith(b"QFI\xfb")
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["content-disposition"].startswith("attachment;")


@pytest.mark.parametrize(
    "path",
    [
        "/points/nas/{folder}/20000101T000000Z",
        "/points/nas/..%2F..%2Fetc/{stamp}",
        "/points/nas/{folder}/..",
        "/points/nas/%2e%2e/{stamp}",
        "/points/nothing/{folder}/{stamp}",
        "/points/nas/<img src=x>/{stamp}",
        "/points/nas/{folder}/{stamp}/disks/vdz.qcow2",
        "/points/nas/{folder}/{stamp}/disks/..%2F..%2Fdomain.qcow2",
        "/points/%00/%00/%00",
    ],
)
def test_what_is_not_there_is_not_found(site: Site, point: Manifest, path: str) -> None:
    folder, stamp = point.id.split("/")
    answer = site.user().client.get(path.format(folder=folder, stamp=stamp))
    assert 400 <= answer.status_code < 500, answer.text
    assert "<img" not in answer.text


def test_what_a_manifest_holds_is_text(site: Site) -> None:
    shelf = Shelf(site.application.settings.repositories()["nas"], EVIL.replace("/", ""), VM_UUID)
    name = EVIL.replace("/", "")
    point = shelf.add(notices=(EVIL,), tool_version=EVIL, run=EVIL)
    for language in ("en", "fr"):
        user = site.user(Role.ADMINISTRATOR, language)
        is_text(user.get(at(point)), name)
        for way in WAYS:
            is_text(user.get(f"{at(point)}/restore?way={way}"), name)
