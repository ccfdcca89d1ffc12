"""By which names this server may be called. A foreign page whose name was made to point here (DNS rebinding) would
otherwise be, to the browser, the same site as ours."""

import socket
from collections.abc import Iterable
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_LOOPBACK_NAMES = ("localhost",)


def own_names(extra: Iterable[str] = ()) -> frozenset[str]:
    """This host's names, those of the loopback, and what the settings add."""
    return frozenset(_plain(name) for name in (*_LOOPBACK_NAMES, socket.gethostname(), socket.getfqdn(), *extra))


def host_allowed(header: str, names: frozenset[str]) -> bool:
    """Whether a Host header names this server: by one of its names, or by an address, which nobody can rebind."""
    name = _without_port(header)
    if name is None:
        return False
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return _plain(name) in names
    return True


def _plain(name: str) -> str:
    return name.strip().lower().rstrip(".")


def _without_port(header: str) -> str | None:
    """The name or address of `name:port`, `[address]:port`; None when it is neither."""
    name, colon, port = header.rpartition(":")
    if not colon or header.endswith("]"):
        name, port = header, "0"
    return name if name and port.isascii() and port.isdigit() else None


class HostMiddleware:
    """Refuses requests that call this server by a name that is not its own."""

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self.app = app
        self.names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            hosts = Headers(scope=scope).getlist("host")
            if len(hosts) != 1 or not host_allowed(hosts[0], self.names):
                refusal = PlainTextResponse(
                    "This server is not known by that name. Its administrator can add the name to the setting"
                    " web.allowed_hosts.\n",
                    status_code=400,
                )
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)
