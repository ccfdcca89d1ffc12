"""Texts in other languages than English, which the code is written in.

The catalogues are the .po files below `locale`, read when they are needed, so that nothing has to be built before a
copy of the source runs. A test finds every message without its French text.
"""

import gettext
from functools import cache
from io import BytesIO
from pathlib import Path

from kvm_backup.domain.phrase import Phrase

LOCALE = Path(__file__).parent / "locale"
CATALOGUE = "LC_MESSAGES/kvm_backup.po"
LANGUAGES = ("en", "fr")


@cache
def translations(code: str) -> gettext.NullTranslations:
    """The texts of one language; English needs none."""
    path = LOCALE / code / CATALOGUE
    if not path.exists():
        return gettext.NullTranslations()
    # Imported here: English needs no Babel.
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po

    compiled = BytesIO()
    with path.open("rb") as source:
        write_mo(compiled, read_po(source, locale=code))
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)


def told(text: str, code: str) -> str:
    """A text in a language, as far as it is a phrase; what is no phrase stays as it is."""
    if not isinstance(text, Phrase):
        return text
    template = translations(code).gettext(text.template)
    values = {name: told(value, code) if isinstance(value, str) else value for name, value in text.values.items()}
    return template.format(**values) if values else template
