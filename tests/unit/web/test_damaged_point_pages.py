"""A point whose manifest is damaged: one clear page, and all others as they were."""

from urllib.parse import quote

import pytest

from kvm_backup.domain.account import Role
from kvm_backup.domain.inventory import VmRecord
from kvm_backup.domain.vm import VmState
from tests.unit.builders import VM_UUID, Shelf
from tests.unit.web.hostile import EVIL
from tests.unit.web.schedules.conftest import Site

DAMAGES = {
    "empty": b"",
    "zeros": b"\0" * 1000,
    "another kind": b"[]",
    "a long number": b"1" * 5000,
    "too deep": b"[" * 100_000,
    "markup": f'{{"id": "{EVIL}"}}'.encode(),
    "no text": b'{"id": "\xff"}',
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("language", ["en", "fr"])
def test_its_page_tells_the_damage_with_a_hint_and_the_vm_and_its_other_points_are_shown(
    site: Site, damage: bytes, language: str
) -> None:
    shelf = Shelf(site.application.settings.repositories()["nas"])
    whole = shelf.add()
    broken = shelf.add(whole)
    (shelf.repository.path_of(broken.id) / "manifest.json").write_bytes(damage)
    site.application.catalogue.refresh(site.application.repository("nas"))
    site.application.inventory.save([VmRecord(VM_UUID, "web", VmState.RUNNING)])
    user = site.user(Role.ADMINISTRATOR, language)
    for rest in ("", "/restore", "/disks/vda.qcow2"):
        answer = user.client.get(at(broken.id) + rest)
        assert answer.status_code == 422
        assert {"en": "manifest", "fr": "manifeste"}[language] in answer.text
        assert "incident" not in answer.text
        assert "<html" in answer.text
    assert user.post(at(broken.id) + "/restore", {"way": "new-vm", "name": "x"}).status_code == 422
    for path in (at(whole.id), f"/vms/{VM_UUID}", "/repositories"):
        assert user.client.get(path).status_code == 200
    assert user.client.get(f"/api/v1{at(broken.id)}").json()["code"] == "damaged-manifest"


def at(point_id: str) -> str:
    folder, stamp = point_id.split("/")
    return f"/points/nas/{quote(folder, safe='')}/{stamp}"
