"""Texts in other languages than English, which the code is written in.

The catalogues are the .po files below `locale`, read when they are needed, so that nothing has to be built before a
copy of the source runs. A test finds every message without its French text.
"""

import gettext
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from kvm_backup.domain.phrase import Phrase

if TYPE_CHECKING:
    from babel.messages.catalog import Catalog

LOCALE = Path(__file__).parent / "locale"
CATALOGUE = "LC_MESSAGES/kvm_backup.po"
LANGUAGES = ("en", "fr")
_PLACE = re.compile(r"{(?P<name>\w+)(?P<repr>!r)?(?::[^}]*)?}")
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d)?) (?P<prefix>[KMGT]i)?B")
"""As `show_size` writes it."""
_SHORTEST_LITERAL = 10
_SENTENCES = re.compile(r"(?<=[.?!]) (?=[A-Z'])")
_CLAUSES = re.compile("; ")
_BETWEEN_CLAUSES = {"fr": "\N{NARROW NO-BREAK SPACE}; "}
"""Where it is not the English one."""
_LISTED_CLAUSES = re.compile(r"{\w+}(?:; {\w+})+")
_LINES = re.compile("\n")
_ASIDE = re.compile(r"(.+) \(([^()]*)\)", re.DOTALL)


@cache
def translations(code: str) -> gettext.NullTranslations:
    """The texts of one language; English needs none."""
    catalogue = _catalogue(code)
    if catalogue is None:
        return gettext.NullTranslations()
    from babel.messages.mofile import write_mo

    compiled = BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)


@cache
def _catalogue(code: str) -> "Catalog | None":
    path = LOCALE / code / CATALOGUE
    if not path.exists():
        return None
    # Imported here: English needs no Babel.
    from babel.messages.pofile import read_po

    with path.open("rb") as source:
        return read_po(source, locale=code)


def told(text: str, code: str) -> str:
    """A text in a language, as far as it is a phrase, or was one before it was stored; else it stays as it is."""
    if isinstance(text, Phrase):
        return _filled(text, code)
    return text if code == "en" else _told_again(text, code)


def _filled(text: Phrase, code: str) -> str:
    template = translations(code).gettext(text.template)
    if _LISTED_CLAUSES.fullmatch(template):
        template = template.replace("; ", _BETWEEN_CLAUSES.get(code, "; "))
    values = {name: _value(one, code) for name, one in text.values.items()}
    return template.format(**values) if values else template


def _value(value: object, code: str) -> object:
    if isinstance(value, Phrase):
        return _filled(value, code)
    return _size(value, code) if isinstance(value, str) else value


def _size(text: str, code: str) -> str:
    """A size in the units of a language: 1.5 GiB is 1,5 Gio in French; any other text stays as it is."""
    size = _SIZE.fullmatch(text) if code == "fr" else None
    return f"{size['number'].replace('.', ',')} {size['prefix'] or ''}o" if size else text


@dataclass(frozen=True, slots=True)
class _Known:
    """A phrase of the catalogue, as stored texts are compared with it; `literal` is what it has beside its values."""

    pattern: re.Pattern[str]
    text: str
    literal: int


@lru_cache(maxsize=4096)
def _told_again(text: str, code: str) -> str:
    """A phrase that was stored as its English text: in the history, the log, the queue.

    It is found by the catalogue's templates; the one with the most words of its own wins. What fills a template may
    have been a phrase, too.
    """
    for known in _known(code):
        match = known.pattern.fullmatch(text)
        if match is not None:
            values = {place: _told_again(value, code) for place, value in match.groupdict().items()}
            return _put(values, known.text)
    for apart, between in ((_SENTENCES, " "), (_CLAUSES, _BETWEEN_CLAUSES.get(code, "; ")), (_LINES, "\n")):
        parts = apart.split(text)
        if len(parts) > 1:
            return between.join(_told_again(part, code) for part in parts)
    aside = _ASIDE.fullmatch(text)
    return _size(text, code) if aside is None else f"{_told_again(aside[1], code)} ({aside[2]})"


def _put(values: dict[str, str], template: str) -> str:
    return _PLACE.sub(lambda place: values[place["name"]], template)


@cache
def _known(code: str) -> list[_Known]:
    found = []
    for message in _catalogue(code) or ():
        template, text = message.id, message.string
        if not (isinstance(template, str) and isinstance(text, str) and text):
            continue  # of those that depend on a number none is a phrase
        literal = len(_PLACE.sub("", template))
        # What is shorter may as well be a name: such words are told where they are said, not where they are read.
        if literal >= _SHORTEST_LITERAL and " " in template.strip():
            found.append(_Known(re.compile(_pattern(template), re.DOTALL), text, literal))
    return sorted(found, key=lambda known: -known.literal)


def _pattern(template: str) -> str:
    seen: set[str] = set()

    def value(place: re.Match[str]) -> str:
        name = place["name"]
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        # What repr() made keeps its quotes.
        return rf"""(?P<{name}>'[^']*'|"[^"]*")""" if place["repr"] else f"(?P<{name}>.+?)"

    parts = _PLACE.split(template)
    literals = map(re.escape, parts[:: _PLACE.groups + 1])
    places = map(value, _PLACE.finditer(template))
    return "".join(one for pair in zip_longest(literals, places, fillvalue="") for one in pair)
