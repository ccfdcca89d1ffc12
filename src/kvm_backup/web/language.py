"""The language of a page: the cookie `lang`, else what the browser prefers. Same texts as the commands."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from kvm_backup.language import LANGUAGES, told, translations

NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"
COOKIE = "lang"
DEFAULT = "en"

_current: ContextVar[str] = ContextVar("language", default=DEFAULT)


def current_language() -> str:
    """The language of the request that is being answered."""
    return _current.get()


@contextmanager
def in_language(code: str) -> Iterator[None]:
    """Everything in here is told in this language."""
    token = _current.set(code)
    try:
        yield
    finally:
        _current.reset(token)


def _(message: str, /, **values: object) -> str:
    """A text in the language of the page, with its `{placeholders}` filled in."""
    text = translations(_current.get()).gettext(message)
    return text.format(**values) if values else text


def ngettext(singular: str, plural: str, number: int, /, **values: object) -> str:
    """A text that depends on a number, which fills in `{count}`."""
    text = translations(_current.get()).ngettext(singular, plural, number)
    return text.format(count=grouped(number), **values)


def grouped(value: float, digits: int = 0) -> str:
    """12345.6 as "12,346", in French "12 346"."""
    text = f"{value:,.{digits}f}"
    if _current.get() == "fr":
        return text.replace(",", NARROW_SPACE).replace(".", ",")
    return text


def in_words(text: str) -> str:
    """The message or hint of an error in the language of the page, where it can be told in it."""
    return told(text, _current.get())


def chosen_language(connection: HTTPConnection) -> str:
    """The cookie decides, else Accept-Language, else English."""
    cookie = connection.cookies.get(COOKIE)
    if cookie in LANGUAGES:
        return cookie
    return preferred_language(connection.headers.get("accept-language", ""))


def preferred_language(header: str) -> str:
    """The language of ours that the browser likes best. Source of the format: RFC 9110, 12.5.4."""
    best, liking = DEFAULT, 0.0
    for part in header[:1000].split(","):
        tag, _separator, weight = part.partition(";")
        code = tag.strip().lower().split("-")[0]
        try:
            wanted = float(weight.strip().removeprefix("q=")) if weight else 1.0
        except ValueError:
            continue
        if code in LANGUAGES and wanted > liking:
            best, liking = code, wanted
    return best


class LanguageMiddleware:
    """Sets the language for all that happens in a request, in its threads, too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with in_language(chosen_language(HTTPConnection(scope))):
            await self.app(scope, receive, send)
