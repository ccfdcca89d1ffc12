"""Whoever sends a request slowly, or none at all, is let go, and keeps nobody out; whoever is in time is served."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from kvm_backup.bootstrap import Application
from kvm_backup.config.settings import check
from kvm_backup.domain.account import Role
from kvm_backup.web import connections
from kvm_backup.web.live import events
from kvm_backup.web.server import serving
from tests.unit.web.dashboard import PASSWORD, PATIENCE, csrf_of

HEAD = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"


@pytest.fixture
def application(tmp_path: Path) -> Application:
    return Application(check({"state_dir": str(tmp_path / "state"), "web": {"port": 0}}, None))


@pytest.fixture
def address(application: Application, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """Of the server, which has little patience."""
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(connections, "CONNECTIONS_MAX", 8)
    said: list[str] = []
    with serving(application, said.append):
        place = urlsplit(said[0].partition("dashboard: ")[2])
        assert place.hostname
        assert place.port
        yield place.hostname, place.port


def until_it_is_let_go(one: socket.socket, trickle: bytes = b"") -> bytes:
    """What the server sends until it closes the connection, while bytes go on to come."""
    one.settimeout(0.05)
    answer = b""
    for _ in range(int(PATIENCE / 0.05)):
        try:
            if trickle:
                one.sendall(trickle)
            received = one.recv(65536)
        except TimeoutError:
            continue
        except ConnectionError:
            return answer
        if not received:
            return answer
        answer += received
    raise AssertionError("the server waits for ever")


@pytest.mark.parametrize(
    ("sent", "trickle"),
    [
        (b"", b""),
        (b"GET /login HTTP/1.1\r\nHost: loc", b""),
        (b"GET /login HTTP/1.1\r\nHost: localhost\r\n", b"X: y\r\n"),
        (HEAD + b"Content-Length: 1000\r\n\r\n", b""),
        (HEAD + b"Content-Length: 100000\r\n\r\n", b"a"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    ],
    ids=["nothing", "half a line", "header by header", "no body", "byte by byte", "chunk by chunk"],
)
def test_a_request_that_does_not_come_in_time_ends_without_an_answer(
    address: tuple[str, int], sent: bytes, trickle: bytes
) -> None:
    with socket.create_connection(address, timeout=PATIENCE) as one:
        one.sendall(sent)
        assert until_it_is_let_go(one, trickle) == b""


def test_a_body_that_nobody_reads_does_not_keep_the_connection(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=PATIENCE) as one:
        one.sendall(b"GET /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
        assert until_it_is_let_go(one, b"a").startswith(b"HTTP/1.1 200 ")


def test_after_an_answer_the_next_request_has_its_time_too(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=PATIENCE) as one:
        one.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert one.recv(9) == b"HTTP/1.1 "
        assert until_it_is_let_go(one, b"GET /heal").startswith(b"5")


def test_connections_that_bring_nothing_make_room_for_those_that_do(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 10 * PATIENCE)
    with ExitStack() as standing:
        crowd = [standing.enter_context(socket.create_connection(address, timeout=PATIENCE)) for _ in range(20)]
        for one in crowd:
            one.sendall(b"GET /login HTTP/1.1\r\n")
        answer = httpx.get(f"http://{address[0]}:{address[1]}/login", timeout=PATIENCE)
        assert answer.status_code == 200
        # The first ones have waited longest.
        assert until_it_is_let_go(crowd[0]) == b""


def test_an_answer_that_goes_on_for_longer_than_a_request_may_is_not_cut_off(
    address: tuple[str, int], application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_KEEP_ALIVE_SECONDS", 2.0)
    application.accounts.add("anne", Role.VIEWER, PASSWORD)
    with httpx.Client(base_url=f"http://{address[0]}:{address[1]}", timeout=PATIENCE) as visitor:
        fields = {"csrf": csrf_of(visitor.get("/login").text), "name": "anne", "password": PASSWORD}
        assert visitor.post("/login", data=fields).status_code == 303
        with visitor.stream("GET", "/events") as stream:
            assert any(line.startswith(":") for line in stream.iter_lines())
