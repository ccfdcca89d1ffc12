"""What every page gets, and how it is rendered."""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from zoneinfo import ZoneInfo

from fastapi import Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse, Response

from kvm_backup import __version__
from kvm_backup.domain import alert_text
from kvm_backup.domain.account import Role
from kvm_backup.domain.alert import Alert
from kvm_backup.domain.chain import is_amiss
from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.shipping import marked_places
from kvm_backup.services.power import start_command
from kvm_backup.web import formats
from kvm_backup.web.assets import Assets
from kvm_backup.web.language import _, current_language, grouped, in_words, ngettext
from kvm_backup.web.live.wire import run_event

THEMES = ("auto", "light", "dark")
THEME_COOKIE = "theme"
MESSAGE_COOKIE = "message"
_KEPT_IN_URLS = ":/%#?=@[]!$&'()*+,;"
"""What RedirectResponse leaves as it is; a header takes few letters."""
_PAGES_OF_ALERTS = ("/", "/alerts")
_BANNER = "/alerts/banner"
_LONGEST_TEXT = 400
"""A cookie holds 4096 bytes."""
_SEAL_KEY = secrets.token_bytes(32)
"""A message that was left before a restart is not told."""

Kind = Literal["good", "info", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Message:
    """What a page tells once, above its content."""

    text: str
    kind: Kind = "good"
    hint: str = ""


def make_environment(assets: Assets, zone: ZoneInfo) -> Environment:
    """Templates with our filters; texts and formats follow the language of the request."""
    environment = Environment(
        loader=PackageLoader("kvm_backup.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # A constant that a filter is applied to would be rendered once, in one language, for all.
        optimized=False,
        auto_reload=False,
    )

    def now() -> datetime:
        return datetime.now(UTC)

    environment.filters |= {
        "size": formats.size,
        "rate": formats.rate,
        "number": grouped,
        "duration": formats.duration,
        "percent": formats.percent,
        "distance": lambda moment: formats.distance(moment, now()),
        "clock_time": lambda moment: formats.clock_time(moment, zone),
        "clock_seconds": lambda moment: formats.clock_seconds(moment, zone),
        "clock_title": lambda moment: formats.clock_title(moment, zone),
        "machine_time": formats.machine_time,
        "on_day": lambda moment: formats.on_day(moment, zone),
        "in_words": in_words,
        "sentence": formats.sentence,
        "is_amiss": is_amiss,
        "start_command": start_command,
        "alert_title": lambda alert: alert_text.title(alert, formats.size),
        "alert_cause": lambda alert: alert_text.cause(alert, formats.size),
        "alert_advice": alert_text.advice,
        "segment": lambda text: quote(str(text), safe=""),
        "with_query": with_query,
        "run_event": run_event,
        "places": places,
    }
    environment.globals |= {
        "_": _,
        "ngettext": ngettext,
        "static": assets.url,
        "current_language": current_language,
        "now": now,
        "zone_name": zone.key,
        "version": __version__,
    }
    return environment


def places(names: Iterable[str], remotes: Container[str]) -> str:
    """Names of remotes, in the language of the page."""
    return ", ".join(in_words(name) for name in marked_places(names, remotes))


def with_query(url: str, **changes: object) -> str:
    """The same address with other parameters; one that is None is left out."""
    parts = urlsplit(url)
    held = dict(parse_qsl(parts.query)) | changes
    query = urlencode({name: value for name, value in held.items() if value is not None})
    return f"{parts.path}?{query}" if query else parts.path


def wants_fragment(request: Request) -> bool:
    """Whether htmx asks for a part of the page instead of a whole one."""
    return request.headers.get("hx-request") == "true" and request.headers.get("hx-history-restore-request") != "true"


def render(
    request: Request,
    template: str,
    *,
    status: int = 200,
    message: Message | None = None,
    headers: dict[str, str] | None = None,
    **facts: Any,
) -> HTMLResponse:
    """A page or fragment. `message` is told above it; one that a redirect left (`redirect`) is told by whole pages.

    Templates get what `page_facts` lists, and `facts`.
    """
    fragment = wants_fragment(request)
    messages = [message] if message else []
    left = None if fragment else _left_message(request)
    if left:
        messages.append(left)
    environment: Environment = request.app.state.templates
    content = environment.get_template(template).render(**page_facts(request), messages=messages, **facts)
    if fragment and message:
        content += environment.get_template("message.html").render(messages=messages, out_of_band=True)
    # A name or a log line may hold half a character, which no encoding has.
    response = HTMLResponse(content.encode(errors="replace"), status_code=status, headers=headers)
    if MESSAGE_COOKIE in request.cookies and not fragment:
        response.delete_cookie(MESSAGE_COOKIE, httponly=True, samesite="lax")
    return response


def page_facts(request: Request) -> dict[str, Any]:
    """What all templates know."""
    state = request.app.state
    user = getattr(request.state, "user", None)
    open_alerts = count_alerts(state.count_alerts) if user is not None else 0
    query = f"?{request.url.query}" if request.url.query else ""
    return {
        "request": request,
        "path": request.url.path,
        "here": request.url.path + query,
        "fragment": wants_fragment(request),
        "language": current_language(),
        "theme": chosen_theme(request),
        "user": user,
        "is_operator": user is not None and user.role.covers(Role.OPERATOR),
        "is_administrator": user is not None and user.role.covers(Role.ADMINISTRATOR),
        "csrf_token": getattr(request.state, "csrf_token", None) or "",
        "host": state.application.host,
        "live_version": state.hub.version,
        "live": state.hub,
        "open_alerts": open_alerts,
        "banner": _worst_alert(request) if open_alerts and _has_banner(request) else None,
    }


def count_alerts(count: Callable[[], int]) -> int:
    """How many alerts are open; a database that is away is told by the page itself, not by its frame."""
    try:
        return count()
    except KvmBackupError:
        return 0


def _worst_alert(request: Request) -> Alert | None:
    """The alert that the banner tells: the most severe that nobody has acknowledged."""
    try:
        return next(iter(request.app.state.application.alerts.open(acknowledged=False, limit=1)), None)
    except KvmBackupError:
        return None


def _has_banner(request: Request) -> bool:
    """Pages that list alerts need none; other fragments than the banner itself hold none."""
    path = request.url.path
    return path == _BANNER or (path not in _PAGES_OF_ALERTS and not wants_fragment(request))


def chosen_theme(request: Request) -> str:
    """`auto` follows the system."""
    theme = request.cookies.get(THEME_COOKIE, "auto")
    return theme if theme in THEMES else "auto"


def redirect(request: Request, url: str, message: Message | None = None) -> Response:
    """After a POST: on to another page of ours, which tells the message."""
    if wants_fragment(request):
        response = Response(status_code=204, headers={"HX-Redirect": quote(url, safe=_KEPT_IN_URLS)})
    else:
        response = RedirectResponse(url, status_code=303)
    if message:
        told = [message.text[:_LONGEST_TEXT], message.kind, message.hint[:_LONGEST_TEXT]]
        packed = json.dumps(told, ensure_ascii=False).encode(errors="replace")
        response.set_cookie(
            MESSAGE_COOKIE,
            f"{base64.urlsafe_b64encode(packed).decode()}.{_seal(packed)}",
            max_age=60,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
    return response


def _left_message(request: Request) -> Message | None:
    """What `redirect` left. Whatever else can set cookies for this host does not speak for these pages."""
    encoded, _dot, seal = request.cookies.get(MESSAGE_COOKIE, "").partition(".")
    try:
        packed = base64.urlsafe_b64decode(encoded)
    except ValueError:
        return None
    if not hmac.compare_digest(_seal(packed).encode(), seal.encode(errors="replace")):
        return None
    text, kind, hint = json.loads(packed)
    return Message(text, kind, hint)


def _seal(packed: bytes) -> str:
    return hmac.new(_SEAL_KEY, packed, hashlib.sha256).hexdigest()
