"""GET /events: what changes, as server-sent events."""

import asyncio
import random

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kvm_backup.web.language import current_language
from kvm_backup.web.live import wire
from kvm_backup.web.live.hub import Connection, Hub, TooManyConnectionsError

_KEEP_ALIVE_SECONDS = 15.0
_LONGEST_SECONDS = (480.0, 600.0)
"""Then the page connects anew, and whether it still may is asked again."""

router = APIRouter(include_in_schema=False)


class EventStream(Response):
    """Sends a connection's chunks until it ends, the page goes away, or it was open long enough."""

    media_type = "text/event-stream"

    def __init__(self, hub: Hub, connection: Connection) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._hub = hub
        self._connection = connection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._stream(send, gone)
        finally:
            self._hub.leave(self._connection)
            gone.cancel()

    async def _stream(self, send: Send, gone: "asyncio.Future[None]") -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + random.uniform(*_LONGEST_SECONDS)  # noqa: S311 - spreads the load, guards nothing
        while not gone.done() and loop.time() < end:
            coming = asyncio.ensure_future(self._connection.queue.get())
            await asyncio.wait((coming, gone), timeout=_KEEP_ALIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                chunk: bytes | None = wire.KEEP_ALIVE
            else:
                chunk = coming.result()
            if chunk is None or gone.done():
                break
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@router.get("/events")
async def events(request: Request, since: str = "") -> Response:
    """The stream of one page. `since` is the version that the page was rendered with; a browser that connects again
    says by itself which event was its last."""
    hub: Hub = request.app.state.hub
    user = getattr(getattr(request.state, "user", None), "name", None) or (
        request.client.host if request.client else ""
    )
    try:
        connection = hub.connect(user, current_language(), request.headers.get("last-event-id") or since)
    except TooManyConnectionsError:
        raise HTTPException(503, headers={"Retry-After": "30"}) from None
    return EventStream(hub, connection)
