"""Connections that bring no request: whoever opens many and sends nothing, or a byte at times, keeps nobody out."""

import asyncio
import resource

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 30.0
"""A request must have come whole after that, counted from its first byte or from the connection's begin."""
CONNECTIONS_MAX = 2048
"""Fewer where the process may open few files: half of them are for backups."""


class PunctualProtocol(H11Protocol):
    """uvicorn's own, which waits for a request for ever, and takes as many connections as there are files."""

    waits_since: float | None = None
    """The loop's time since when a request is awaited; None while none is."""
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """One more connection; when they are too many, whoever has kept us waiting longest goes."""
        super().connection_made(transport)
        self._await_request()
        if len(self.connections) > _most():
            waiting = [one for one in self.connections if isinstance(one, PunctualProtocol)]
            slowest = min(waiting, key=lambda one: self.loop.time() if one.waits_since is None else one.waits_since)
            slowest.transport.abort()

    def data_received(self, data: bytes) -> None:
        """More of a request, or the last of it."""
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._request_came()
        elif self.waits_since is None:
            self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self._request_came()
        super().connection_lost(exc)

    def _await_request(self) -> None:
        self.waits_since = self.loop.time()
        self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _request_came(self) -> None:
        self.waits_since = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _most() -> int:
    return min(CONNECTIONS_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
