"""Requests that change something must come from a page of ours: the browser says so, and the page's token proves it.

The token is made of the secret in the browser's cookie, so that each session has its own, and none is stored.
"""

import hashlib
import hmac
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from kvm_backup.domain.errors import ForgedRequestError, RequestTooLargeError
from kvm_backup.domain.phrase import phrase

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
FIELD = "csrf"
HEADER = "x-csrf-token"
BODY_MAX = 1024 * 1024
_LENGTH_DIGITS = 18
_FIELDS_MAX = 20_000
"""A form may name as many VMs as a host has."""
_PURPOSE = b"kvm-backup csrf"


def token_for(secret: str) -> str:
    """The token of whoever has this secret in a cookie."""
    return hmac.new(secret.encode(), _PURPOSE, hashlib.sha256).hexdigest()


def check(headers: Headers, body: bytes, secret: str | None) -> None:
    """Raises ForgedRequestError. The token is in the header, or a field of an ordinary form."""
    if not _from_here(headers):
        raise ForgedRequestError(
            phrase("the request comes from another site"),
            hint=phrase("Nothing was changed. Open the page here, and do it there."),
        )
    given = headers.get(HEADER) or _field(headers, body)
    expected = token_for(secret) if secret else ""
    if not expected or not hmac.compare_digest(given.encode(errors="surrogatepass"), expected.encode()):
        raise ForgedRequestError(
            phrase("the page that sent this is not of this session"),
            hint=phrase("Nothing was changed. Load the page again and repeat it. The browser must accept cookies."),
        )


async def read_body(headers: Headers, receive: Receive) -> tuple[bytes, Receive]:
    """The body, and what gives it to whoever reads it next.

    Raises RequestTooLargeError, and ClientDisconnect when it did not come whole: half a form is another form.
    """
    stated = headers.get("content-length", "0")
    if not (stated.isascii() and stated.isdigit() and len(stated) <= _LENGTH_DIGITS) or int(stated) > BODY_MAX:
        raise _too_long()
    parts: list[bytes] = []
    more, length = True, 0
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        length += len(parts[-1])
        if length > BODY_MAX:
            raise _too_long()
        more = message.get("more_body", False)
    body = b"".join(parts)
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return body, again


def _from_here(headers: Headers) -> bool:
    # Browsers send this to https and localhost, and no page can change it.
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return True  # no browser of today; the token decides
    try:
        return urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
    except ValueError:
        return False


def _field(headers: Headers, body: bytes) -> str:
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        return ""
    try:
        fields = parse_qsl(body.decode("latin-1"), keep_blank_values=True, max_num_fields=_FIELDS_MAX)
    except ValueError:
        return ""
    return next((value for name, value in fields if name == FIELD), "")


def _too_long() -> RequestTooLargeError:
    return RequestTooLargeError(
        phrase("the request is too long"), hint=phrase("Send {count} bytes at most.", count=BODY_MAX)
    )
