"""The web server: listens before anything else begins, serves in a thread of its own, ends within seconds."""

import errno
import logging
import resource
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from kvm_backup.bootstrap import Application
from kvm_backup.domain.errors import ListenError, SettingsError
from kvm_backup.domain.phrase import phrase
from kvm_backup.web.app import make_app
from kvm_backup.web.connections import PunctualProtocol

_GRACE_SECONDS = 3
"""How long answers that go on may take once the server is told to end; streams of events end by themselves."""
_START_SECONDS = 30.0
_PROXIES = "127.0.0.1,::1"
_BACKLOG = 256
_OPEN_FILES = 65536
_PRIVILEGED = 1024

Say = Callable[[str], None]


@contextmanager
def serving(application: Application, say: Say) -> Iterator[None]:
    """Serve the dashboard meanwhile. `say` is told its address.

    Raises ListenError when it cannot listen there, SettingsError for a certificate that cannot be used, and what
    `make_app` raises.
    """
    web = application.settings.web
    tls = _tls_context(web.tls_certificate, web.tls_key) if web.tls_certificate else None
    sockets = listen(web.host, web.port)
    _make_room_for_connections()
    try:
        ready = threading.Event()
        app = make_app(application, ready.set)
        server = _Server(app, sockets, tls, ready, behind_proxy=web.behind_proxy, say=say)
        server.start()
    except BaseException:
        for one in sockets:
            one.close()
        raise
    try:
        address = web.url_at(sockets[0].getsockname()[1])
        say(phrase("dashboard: {address}", address=address))
        _invite_first(application, address, say)
        yield
    finally:
        server.stop()


def _make_room_for_connections() -> None:
    """Connections that only stay open must not take the last files that backups need: the usual limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def _invite_first(application: Application, address: str, say: Say) -> None:
    link = application.accounts.first_start_link(address)
    if link is not None:
        say(
            phrase(
                "there is no user yet: open this link within 24 hours to make the first administrator, {link}",
                link=link,
            )
        )


def listen(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of that name, all with one port. Raises ListenError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise _cannot(host, port, error) from error
    sockets: list[socket.socket] = []
    problem: OSError | None = None
    for family, kind, protocol, _name, address in dict.fromkeys(found):
        one = socket.socket(family, kind, protocol)
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # "::" is for both; an address that stands beside one of IPv4 keeps to its own kind.
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(len(found) > 1))
            taken = sockets[0].getsockname()[1] if sockets else port
            one.bind((address[0], taken, *address[2:]))
            one.listen(_BACKLOG)
        except OSError as error:
            one.close()
            # A host without IPv6 still has the other address of "localhost".
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) or len(found) == 1:
                for other in sockets:
                    other.close()
                raise _cannot(host, port, error) from error
            problem = error
        else:
            sockets.append(one)
    if not sockets:
        raise _cannot(host, port, problem or OSError(errno.EADDRNOTAVAIL, "no address")) from problem
    return sockets


def _cannot(host: str, port: int, error: OSError) -> ListenError:
    hints = {
        errno.EADDRINUSE: phrase(
            "Another program has that port: 'ss -ltnp' shows which. End it, or set web.port to another one."
        ),
        errno.EACCES: phrase("Ports below {first} are for root. Set web.port to a higher one.", first=_PRIVILEGED),
    }
    hint = hints.get(error.errno or 0) or phrase("Set web.host to an address of this host, or to 127.0.0.1.")
    problem = error.strerror or str(error)
    return ListenError(
        phrase("the dashboard cannot listen on {host} port {port}: {problem}", host=host, port=port, problem=problem),
        hint=hint,
    )


def _tls_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2

    def no_password() -> str:
        raise ValueError("the key has a password")

    try:
        context.load_cert_chain(certificate, key, password=no_password)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise SettingsError(
            phrase("the certificate {path} cannot be used: {reason}", path=str(certificate), reason=reason),
            hint=phrase(
                "web.tls_certificate and web.tls_key name PEM files that belong together, without a password."
            ),
        ) from error
    return context


class _Server:
    def __init__(
        self,
        app: FastAPI,
        sockets: list[socket.socket],
        tls: ssl.SSLContext | None,
        ready: threading.Event,
        *,
        behind_proxy: bool,
        say: Say,
    ) -> None:
        self._app = app
        self._sockets = sockets
        self._say = say
        self._stopping = False
        self._ready = ready
        self._loop_ended: BaseException | None = None
        _complaints_to(say)
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                app,
                http=PunctualProtocol,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="on",
                ws="none",
                proxy_headers=behind_proxy,
                forwarded_allow_ips=_PROXIES,
                timeout_graceful_shutdown=_GRACE_SECONDS,
                ssl_context_factory=(lambda _config, _default: tls) if tls else None,
            )
        )
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    def start(self) -> None:
        self._thread.start()
        if not self._ready.wait(_START_SECONDS) or self._loop_ended is not None:
            raise ListenError(
                phrase("the dashboard did not start: {problem}", problem=str(self._loop_ended or "no answer")),
                hint=phrase("This is a fault of KVM Backup. 'kvm-backup daemon' runs the service without it."),
            )

    def stop(self) -> None:
        self._stopping = True
        self._app.state.hub.close_soon()
        self._uvicorn.should_exit = True
        self._thread.join(_GRACE_SECONDS + 5)

    def _run(self) -> None:
        try:
            self._uvicorn.run(sockets=self._sockets)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the service goes on without its pages, and says so
            self._loop_ended = error
        finally:
            if not self._stopping:
                self._say(f"the dashboard ended unexpectedly: {self._loop_ended}; backups go on")
            self._ready.set()


class _Complaints(logging.Handler):
    def __init__(self, say: Say) -> None:
        super().__init__(logging.WARNING)
        self._told = say

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):
            self._told(f"dashboard: {record.getMessage()}")


def _complaints_to(say: Say) -> None:
    logger = logging.getLogger("uvicorn.error")
    logger.handlers = [_Complaints(say)]
    logger.propagate = False
