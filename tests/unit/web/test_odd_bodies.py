"""Bodies that are huge, cut off, mislabelled or nonsense are refused with a status that says so; nothing breaks."""

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from kvm_backup.domain.account import Role
from tests.unit.web.dashboard import Dashboard

FORM = "application/x-www-form-urlencoded"
MIB = 1 << 20


@pytest.fixture
def token(dashboard: Dashboard, administrator: httpx.Client) -> str:
    application = dashboard.application
    account = next(one for one in application.accounts.all() if one.role is Role.ADMINISTRATOR)
    return application.api_tokens.add(account, "odd", Role.OPERATOR, None)[1]


@pytest.fixture
def program(dashboard: Dashboard, token: str) -> Iterator[httpx.Client]:
    with dashboard.client(headers={"Authorization": f"Bearer {token}"}) as client:
        yield client


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 200_000,
        b'{"name": ' + b"9" * 5000 + b"}",
        b'{"name": "\xff"}',
        b"null",
        b'"text"',
        b"\0" * 1000,
    ],
    ids=["nothing", "half", "deep", "long number", "no text", "null", "a string", "zeros"],
)
@pytest.mark.parametrize(
    "kind", ["application/json", FORM, "multipart/form-data; boundary=x", "text/plain", "a/b;c=\xff"]
)
def test_nonsense_for_the_api_is_a_problem_document(program: httpx.Client, body: bytes, kind: str) -> None:
    answer = program.post("/api/v1/schedules", content=body, headers={b"Content-Type": kind.encode("latin-1")})
    assert answer.status_code in (400, 415, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (FORM, b"%" * 1000),
        (FORM, b"name=%ff%00&csrf=%zz"),
        (FORM, b"a=1&" * 200_000),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=csrf\r\n\r\nab"),
        ("multipart/form-data", b"--x"),
        ("application/json", b"{}"),
    ],
)
def test_nonsense_for_a_form_is_refused_as_not_of_its_page(
    administrator: httpx.Client, kind: str, body: bytes
) -> None:
    answer = administrator.post("/schedules", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 403
    assert "Nothing was changed" in answer.text


def test_a_body_that_is_too_long_is_refused_before_it_is_read(program: httpx.Client) -> None:
    answer = program.post("/api/v1/schedules", content=b" " * (MIB + 1), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["code"] == "request-too-large"


def test_one_whose_length_nobody_stated_is_refused_as_soon_as_it_is_too_long(
    dashboard: Dashboard, token: str
) -> None:
    chunk = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
    place = urlsplit(dashboard.url)
    with socket.create_connection((place.hostname, place.port), timeout=60) as one:
        one.sendall(
            b"POST /api/v1/schedules HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
            + token.encode()
            + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(17):
            one.sendall(chunk)
        assert one.recv(65536).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: -1",
        b"Content-Length: 99999999999999999999999999",
        b"Content-Length: 1\r\nContent-Length: 2",
        b"Transfer-Encoding: gzip",
        b"X: " + b"a" * 200_000,
    ],
    ids=["negative", "endless", "two lengths", "unknown coding", "long header"],
)
def test_a_head_that_nobody_can_mean_is_refused_and_the_server_goes_on(dashboard: Dashboard, head: bytes) -> None:
    place = urlsplit(dashboard.url)
    with socket.create_connection((place.hostname, place.port), timeout=60) as one:
        one.sendall(b"POST /login HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n\r\n")
        assert one.recv(65536)[:10] in (b"HTTP/1.1 4", b"HTTP/1.1 5")
    assert httpx.get(f"{dashboard.url}/login", timeout=60).status_code == 200
