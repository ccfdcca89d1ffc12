"""HEAD gives what GET gives, without a body, and begins nothing that only a body needs."""

import socket
from urllib.parse import quote, urlsplit

import httpx
import pytest

from kvm_backup.domain.account import Role
from tests.unit.builders import Shelf
from tests.unit.web.dashboard import Dashboard
from tests.unit.web.schedules.conftest import Site

PAGES = (
    "/",
    "/schedules",
    "/vms",
    "/runs",
    "/repositories",
    "/alerts",
    "/account",
    "/metrics",
    "/api/v1/vms",
    "/static/no",
)


@pytest.mark.parametrize("path", PAGES)
def test_head_tells_what_get_would(administrator: httpx.Client, path: str) -> None:
    head, get = administrator.head(path), administrator.get(path)
    assert head.status_code == get.status_code
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.content == b""
    assert get.content != b""


def test_it_needs_who_may_look_as_get_does(visitor: httpx.Client) -> None:
    answer = visitor.head("/vms", headers={"Accept": "text/html"})
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login")
    assert visitor.head("/login").status_code == 200
    assert visitor.head("/api/v1/vms").status_code == 401


def test_no_byte_of_a_body_follows_on_the_connection(dashboard: Dashboard) -> None:
    place = urlsplit(dashboard.url)
    with socket.create_connection((place.hostname, place.port), timeout=60) as one:
        one.sendall(b"HEAD /login HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        received = b"".join(iter(lambda: one.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b"\r\n\r\n")


def test_head_of_the_stream_of_events_ends_and_leaves_no_page_connected(own_dashboard: Dashboard) -> None:
    with own_dashboard.logged_in() as client:
        for _ in range(100):  # more than one user may keep open
            assert client.head("/events").status_code == 200
        with client.stream("GET", "/events") as events:
            assert events.status_code == 200


def test_head_of_a_disk_sends_none_of_it(site: Site) -> None:
    shelf = Shelf(site.application.settings.repositories()["nas"])
    folder, stamp = shelf.add().id.split("/")
    path = f"/points/nas/{quote(folder, safe='')}/{stamp}/disks/vda.qcow2"
    client = site.user(Role.OPERATOR).client
    head, get = client.head(path), client.get(path)
    assert head.status_code == get.status_code == 200
    assert head.headers["content-length"] == get.headers["content-length"] == str(len(get.content))
    assert head.content == b""


def test_what_only_takes_forms_refuses_head_and_names_what_it_takes(administrator: httpx.Client) -> None:
    answer = administrator.head("/logout")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
