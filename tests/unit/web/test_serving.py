"""kvm-backup serve: where it listens, what it refuses, how it ends."""

import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from kvm_backup.domain.errors import ListenError
from kvm_backup.runtime.heartbeat import service_runs
from kvm_backup.web.server import listen
from tests.unit.web.dashboard import COMMAND, PATIENCE, Dashboard, running

ROOT = Path(__file__).parents[3]
_SERVES = re.compile(r"^serving ", re.MULTILINE)


def test_it_says_where_it_is_and_is_healthy_once_it_has_ticked(own_dashboard: Dashboard) -> None:
    with own_dashboard.client() as client:
        own_dashboard.wait_for_line(_SERVES)
        while (answer := client.get("/healthz")).status_code != 200:
            assert own_dashboard.process is not None
            assert own_dashboard.process.poll() is None
            assert answer.status_code == 503
            assert answer.json()["status"] == "failing"
        assert answer.json() == {"status": "ok", "database": "ok", "tick": "ok", "look": "ok"}
    assert service_runs(own_dashboard.state)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order_though_pages_are_connected(own_dashboard: Dashboard, number: int) -> None:
    with own_dashboard.logged_in() as client, client.stream("GET", "/events") as events:
        lines = events.iter_lines()
        assert next(lines) == "retry: 2000"
        assert own_dashboard.end(number) == 0
        # The stream ended as it should: a connection that breaks raises here.
        assert list(lines) is not None
    assert own_dashboard.said.rstrip().endswith("ended")
    assert not service_runs(own_dashboard.state)
    # All of the history is in the one file that somebody may copy.
    assert [path for path in own_dashboard.state.glob("kvm-backup.db-wal") if path.stat().st_size] == []


def test_a_port_that_is_taken_is_one_error_and_nothing_was_begun(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with running(Dashboard(tmp_path / "state", {"KVM_BACKUP_WEB__PORT": str(port)})) as refused:
            assert refused.ended() == 1
    error, hint = refused.said.splitlines()
    assert error.startswith(f"error: the dashboard cannot listen on 127.0.0.1 port {port}: ")
    assert "web.port" in hint
    assert not service_runs(tmp_path / "state")
    assert not (tmp_path / "state" / "queue.db").exists()


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.name.invalid"])
def test_an_address_that_is_not_of_this_host_is_refused_with_a_hint(host: str) -> None:
    with pytest.raises(ListenError) as refused:
        listen(host, 0)
    assert host in refused.value.message
    assert "web.host" in refused.value.hint


def test_a_name_with_several_addresses_has_one_port_on_all() -> None:
    sockets = listen("localhost", 0)
    try:
        assert len({one.getsockname()[1] for one in sockets}) == 1
    finally:
        for one in sockets:
            one.close()


def test_a_second_one_on_the_same_state_folder_says_that_the_service_runs(own_dashboard: Dashboard) -> None:
    own_dashboard.wait_for_line(_SERVES)
    with running(Dashboard(own_dashboard.state)) as second:
        assert second.ended() == 1
    assert second.said.startswith("error: the service runs already")


def test_the_daemon_alone_serves_no_pages(tmp_path: Path) -> None:
    with running(Dashboard(tmp_path / "state", program=(str(COMMAND), "daemon"))) as daemon:
        daemon.wait_for_line(_SERVES)
        assert "dashboard" not in daemon.said
        assert daemon.end() == 0


def test_the_programs_of_the_first_version_start_it_too(tmp_path: Path) -> None:
    program = (sys.executable, str(ROOT / "app_backup_kvm" / "kvm_monitor.py"))
    with running(Dashboard(tmp_path / "state", program=program)) as monitor:
        assert httpx.get(f"{monitor.url}/healthz", timeout=PATIENCE).status_code in (200, 503)
        assert monitor.end() == 0


# TLS


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    pair = tmp_path / "certificate.pem", tmp_path / "key.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run(["openssl", *words.split(), "-out", pair[0], "-keyout", pair[1]], check=True, capture_output=True)
    return pair


def test_with_a_certificate_it_serves_by_tls(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    tls = {"KVM_BACKUP_WEB__TLS_CERTIFICATE": str(certificate[0]), "KVM_BACKUP_WEB__TLS_KEY": str(certificate[1])}
    with running(Dashboard(tmp_path / "state", tls)) as secure:
        assert secure.url.startswith("https://localhost:")
        trusted = ssl.create_default_context(cafile=str(certificate[0]))
        with httpx.Client(base_url=secure.url, verify=trusted, timeout=PATIENCE) as client:
            answer = client.get("/preferences?theme=dark")
        assert "Secure" in answer.headers["set-cookie"]


def test_a_certificate_that_cannot_be_used_is_an_error_of_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "certificate.pem"
    file.write_text("nothing of the kind")
    with running(Dashboard(tmp_path / "state", {"KVM_BACKUP_WEB__TLS_CERTIFICATE": str(file)})) as refused:
        assert refused.ended() == 2
    assert refused.said.startswith(f"error: the certificate {file} cannot be used")


@pytest.mark.parametrize(("setting", "secure"), [("true", True), ("false", False)])
def test_what_a_proxy_says_is_believed_only_when_the_settings_say_so(
    tmp_path: Path, setting: str, secure: bool
) -> None:
    with running(Dashboard(tmp_path / "state", {"KVM_BACKUP_WEB__BEHIND_PROXY": setting})) as behind:
        headers = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}
        with behind.client(headers=headers) as client:
            answer = client.get("/preferences?theme=dark")
    assert ("secure" in answer.headers["set-cookie"].lower()) == secure


# Health


def test_a_service_that_no_longer_ticks_is_not_healthy(own_dashboard: Dashboard) -> None:
    own_dashboard.wait_for_line(_SERVES)
    assert own_dashboard.process is not None
    with own_dashboard.client() as client:
        while client.get("/healthz").status_code != 200:
            assert own_dashboard.process.poll() is None
        # The heartbeat is rewritten each few seconds with the time of the last tick; here the tick of long ago is put
        # into it, which the service itself overwrites only after we looked.
        beat = json.loads((own_dashboard.state / "daemon.json").read_text())
        (own_dashboard.state / "daemon.json").write_text(json.dumps(beat | {"ticked": "2020-01-01T00:00:00+00:00"}))
        answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["tick"].startswith("the last tick was ")
