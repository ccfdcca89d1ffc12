"""Pages and the API tell of points at a remote that this host did not ship, and restore none untold."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from kvm_backup.config.repository import RepositorySettings
from kvm_backup.domain.account import Role
from kvm_backup.domain.inventory import VmRecord
from kvm_backup.domain.point import Manifest, serialize
from kvm_backup.domain.vm import VmState
from kvm_backup.runtime.queue import DurableQueue
from tests.unit.builders import VM_UUID, Shelf
from tests.unit.web.schedules.conftest import Site
from tests.unit.web.schedules.markup import parse

FAR = RepositorySettings.model_validate({"name": "far", "url": "ssh://far/srv", "of": "nas"})
WARNING = "was not shipped by this host"
FORM = {"way": "new-vm", "name": "web-restored"}


@pytest.fixture
def points(site: Site) -> tuple[Manifest, Manifest]:
    """One that this host has shipped, and one that is there only, put there by somebody else."""
    settings = site.application.settings
    told = settings.model_copy(update={"repository": (*settings.repository, FAR)})
    vars(site.application)["at_start"] = told
    shelf = Shelf(told.repositories()["nas"])
    own, planted = shelf.add(), shelf.add(seed=66)
    mirror = site.application.shipping.mirror("far")
    mirror.record(own.id, serialize(own))
    mirror.show(planted.id, serialize(planted))
    shelf.repository.path_of(planted.id).rename(shelf.root.parent / "taken")
    for repository in (shelf.repository, mirror.repository):
        site.application.catalogue.refresh(repository)
    site.application.inventory.save([VmRecord(VM_UUID, "web", VmState.STOPPED)])
    return own, planted


@pytest.fixture
def queue(site: Site) -> Iterator[None]:
    """It takes what is asked for, and nothing is done."""
    made = DurableQueue(
        database_url=site.application.queue.url,
        host=site.application.host,
        parallel=1,
        execute=lambda _request, _step: None,
        say=lambda _line: None,
    )
    made.start()
    yield
    made.stop()


def at(point: Manifest) -> str:
    folder, stamp = point.id.split("/")
    return f"/points/far/{quote(folder, safe='')}/{stamp}"


def test_the_page_of_the_vm_marks_it_in_the_table_and_on_the_time_line(
    site: Site, points: tuple[Manifest, Manifest]
) -> None:
    section = site.user().get(f"/vms/{VM_UUID}").one("section", aria_labelledby="points-title")
    rows = section.one("tbody").all("tr")
    assert {row.one("th").one("a")["href"]: "not from this host" in row.text for row in rows} == {
        at(points[0]).replace("/far/", "/nas/"): False,
        at(points[1]): True,
    }
    [mark] = [circle for circle in section.all("circle") if "not from this host" in circle.one("title").text]
    assert "foreign" in mark["class"]
    french = site.user(language="fr").get(f"/vms/{VM_UUID}")
    assert french.text.count("pas de cet hôte") == 2


def test_its_page_and_the_form_warn_and_those_of_an_own_point_do_not(
    site: Site, points: tuple[Manifest, Manifest]
) -> None:
    user = site.user()
    for point, warned in zip(points, (False, True), strict=True):
        form = user.get(at(point) + "/restore")
        assert (WARNING in user.get(at(point)).text) is warned
        assert (WARNING in form.text) is warned
        boxes = [box for box in form.all("input") if box["name"] == "foreign"]
        assert len(boxes) == warned
        assert all("required" in box.attributes for box in boxes)
    assert "a pas été envoyé par cet hôte" in site.user(language="fr").get(at(points[1])).text


@pytest.mark.parametrize("way", [FORM, {"way": "in-place", "confirm": "web"}, {"way": "folder", "to": "/srv/out"}])
def test_a_form_without_the_tick_restores_nothing_and_says_why(
    site: Site, points: tuple[Manifest, Manifest], way: dict[str, str]
) -> None:
    user = site.user(Role.ADMINISTRATOR)
    answer = user.post(at(points[1]) + "/restore", way)
    assert answer.status_code == 409
    assert WARNING in parse(answer.text).one(id="foreign-error").text
    assert site.application.history.newest() == []


@pytest.mark.usefixtures("queue")
def test_with_the_tick_it_is_restored_and_an_own_point_needs_none(
    site: Site, points: tuple[Manifest, Manifest]
) -> None:
    user = site.user()
    user.message(user.post(at(points[1]) + "/restore", FORM | {"foreign": "1"}))
    user.message(user.post(at(points[0]) + "/restore", FORM | {"name": "web-again"}))
    assert len(site.application.history.newest()) == 2


def asked(site: Site, point: Manifest, **more: Any) -> Any:
    user = site.user()
    return user.client.post(
        "/api/v1" + at(point) + "/restore", json=FORM | more, headers={"X-CSRF-Token": user.token}
    )


@pytest.mark.usefixtures("queue")
def test_the_api_restores_it_only_when_it_is_said_to_be_trusted(
    site: Site, points: tuple[Manifest, Manifest]
) -> None:
    refused = asked(site, points[1])
    assert refused.status_code == 409
    assert refused.json()["code"] == "foreign-point"
    assert WARNING in refused.json()["detail"] + refused.json()["title"]
    assert '"foreign": true' in refused.json()["hint"]
    assert asked(site, points[1], foreign="yes").status_code == 422
    assert site.application.history.newest() == []
    assert asked(site, points[1], foreign=True).status_code == 202
    assert asked(site, points[0], name="web-again").status_code == 202


def test_the_api_tells_of_each_point_whether_it_is(site: Site, points: tuple[Manifest, Manifest]) -> None:
    client = site.user().client
    assert [client.get("/api/v1" + at(point)).json()["foreign"] for point in points] == [False, True]
    [listed] = client.get(f"/api/v1/vms/{VM_UUID}/points").json()["points"]
    assert (listed["id"], listed["foreign"]) == (points[0].id, False)
