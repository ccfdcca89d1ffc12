"""Connections that are opened and left standing, by whoever can reach the port."""

import resource
import socket
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from tests.unit.web.dashboard import COMMAND, Dashboard, running

USUAL = 256
STANDING = 400


def test_more_connections_than_the_usual_limit_of_files_keep_nobody_out(tmp_path: Path) -> None:
    shell = ("/bin/sh", "-c", f'ulimit -S -n {USUAL} && exec "$0" serve', str(COMMAND))
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert own[0] > 2 * STANDING, "this test needs more files itself"
    with running(Dashboard(tmp_path / "state", program=shell)) as dashboard, ExitStack() as standing:
        place = urlsplit(dashboard.url)
        for _ in range(STANDING):
            one = standing.enter_context(socket.create_connection((place.hostname, place.port), timeout=30))
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: loc")
        with dashboard.client() as visitor:
            assert visitor.get("/login").status_code == 200
