"""HEAD: the answer that GET gives, without its body."""

from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadMiddleware:
    """Asks as GET does, and ends the answer once its headers are known, so that no stream or download is begun."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def headers_only(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})
                raise _HeadersSentError

        with suppress(_HeadersSentError):
            await self.app({**scope, "method": "GET"}, receive, headers_only)


class _HeadersSentError(Exception):
    """All that was asked for is sent."""
