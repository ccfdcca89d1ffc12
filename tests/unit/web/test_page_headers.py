"""What every answer forbids the browser, and that no page of ours needs what is forbidden."""

import re
import socket
from pathlib import Path

import httpx
import pytest

from kvm_backup.web.security.hosts import host_allowed, own_names
from tests.unit.web.dashboard import PATIENCE

WEB = Path(__file__).parents[3] / "src" / "kvm_backup" / "web"
TEMPLATES = sorted((WEB / "templates").rglob("*.html"))
NAMES = own_names(["backup.example.org"])


@pytest.mark.parametrize("path", ["/healthz", "/login", "/no/such/page", "/static/x/app.css", "/static/x/none.css"])
def test_every_answer_lets_the_browser_run_and_load_only_what_is_ours(visitor: httpx.Client, path: str) -> None:
    headers = visitor.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
    assert policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert "camera=()" in headers["permissions-policy"]
    assert "server" not in headers


def test_pages_are_not_kept_by_the_browser(administrator: httpx.Client) -> None:
    assert administrator.get("/account").headers["cache-control"] == "no-store"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: str(path.relative_to(WEB)))
def test_no_template_has_script_or_style_of_its_own(template: Path) -> None:
    text = re.sub(r"{%.*?%}", "", template.read_text(), flags=re.DOTALL)
    assert re.findall(r"<script(?![^>]*\ssrc=)", text) == []
    assert re.findall(r"<style|\sstyle\s*=|\son[a-z]+\s*=|javascript:|\shx-on|hx-vals\s*=\s*.js:", text) == []
    assert re.findall(r"\|\s*safe\b|Markup\(", text) == []
    assert re.findall(r"""(?:src|href|action)=["']?(?:https?:)?//""", text) == []


def test_every_attribute_that_holds_a_value_is_quoted() -> None:
    unquoted = [path.name for path in TEMPLATES if re.search(r"\s[a-z-]+=\{\{", path.read_text())]
    assert unquoted == []


def test_no_signal_is_lost_between_two_others() -> None:
    # htmx drops what comes within a throttle; `delay` waits for the last one.
    triggers = [trigger for path in TEMPLATES for trigger in re.findall(r'hx-trigger="([^"]+)"', path.read_text())]
    assert any("sse:" in trigger for trigger in triggers)
    throttled = [trigger for trigger in triggers if "throttle" in trigger and re.search(r"sse:[a-z]", trigger)]
    assert throttled == []


# By which names


@pytest.mark.parametrize(
    "header",
    [
        "localhost",
        "LOCALHOST:8080",
        "localhost.:8080",
        "127.0.0.1:8080",
        "192.168.1.7",
        "[::1]",
        "[fe80::1]:8080",
        "backup.example.org:443",
    ],
)
def test_this_host_is_known_by_its_names_and_by_addresses(header: str) -> None:
    assert host_allowed(header, NAMES)


@pytest.mark.parametrize(
    "header",
    [
        "",
        ":8080",
        "evil.example",
        "localhost.evil.example",
        "evil.example:8080",
        "127.0.0.1.evil.example",
        "localhost:80:80",
        "localhost:x",
        "localhost@evil.example",
        "[::1",
        "localhost, evil.example",
        "localhost/evil",
    ],
)
def test_any_other_name_is_refused(header: str) -> None:
    assert not host_allowed(header, NAMES)


def test_a_request_by_a_foreign_name_is_answered_with_400_and_no_page(visitor: httpx.Client) -> None:
    for path in ("/", "/healthz", "/static/x/app.js", "/login"):
        answer = visitor.get(path, headers={"Host": "evil.example"})
        assert answer.status_code == 400
        assert "web.allowed_hosts" in answer.text
        assert "<" not in answer.text


@pytest.mark.parametrize("names", [(), ("localhost", "evil.example")], ids=["none", "two"])
def test_a_request_without_one_name_is_refused(visitor: httpx.Client, names: tuple[str, ...]) -> None:
    lines = ["GET /healthz HTTP/1.1", *(f"Host: {name}" for name in names), "Connection: close", "", ""]
    with socket.create_connection(("localhost", visitor.base_url.port or 0), timeout=PATIENCE) as raw:
        raw.sendall("\r\n".join(lines).encode())
        assert raw.makefile("rb").readline().split()[1] == b"400"
