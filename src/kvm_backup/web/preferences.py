"""The switches of language and theme: a plain link that keeps the choice in a cookie and leads back."""

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from kvm_backup.language import LANGUAGES
from kvm_backup.web import language
from kvm_backup.web.context import THEME_COOKIE, THEMES

_YEAR = 365 * 86400

router = APIRouter(include_in_schema=False)


@router.get("/preferences")
def change_preferences(request: Request, back: str = "/", lang: str = "", theme: str = "") -> Response:
    """Keep what is a choice of ours, ignore the rest."""
    response = RedirectResponse(local_path(back), status_code=303)
    for cookie, value, choices in ((language.COOKIE, lang, LANGUAGES), (THEME_COOKIE, theme, THEMES)):
        if value in choices:
            response.set_cookie(
                cookie, value, max_age=_YEAR, httponly=True, samesite="lax", secure=request.url.scheme == "https"
            )
    return response


def local_path(wanted: str) -> str:
    """The path when it leads to a page of this server, else `/`.

    Browsers read `//host` and `/\\host` as another server's address, and drop tabs and line breaks before that.
    """
    if not wanted.startswith("/") or wanted[1:2] in ("/", "\\") or not wanted.isprintable():
        return "/"
    return wanted
