"""Texts in the user's language: French where the environment asks for it, else English, which the code is written in.

The catalogues are the .po files below `locale`, read when they are needed, so that nothing has to be built before a
copy of the source runs. A test finds every message without its French text.
"""

import gettext
import os
from collections.abc import Mapping
from functools import cache
from io import BytesIO
from pathlib import Path

VARIABLE = "KVM_BACKUP_LANG"
LOCALE = Path(__file__).parents[1] / "locale"
CATALOGUE = "LC_MESSAGES/kvm_backup.po"


def language(environment: Mapping[str, str] = os.environ) -> str:
    """`fr` or `en`, from KVM_BACKUP_LANG, else LC_ALL, LC_MESSAGES, LANG: the first that is set decides."""
    for name in (VARIABLE, "LC_ALL", "LC_MESSAGES", "LANG"):
        value = environment.get(name)
        if value:
            return "fr" if value.lower().replace("-", "_").split("_")[0].split(".")[0] == "fr" else "en"
    return "en"


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


def _(message: str) -> str:
    """A text in the user's language."""
    return translations(language()).gettext(message)


def ngettext(singular: str, plural: str, count: int) -> str:
    """A text that depends on a number, in the user's language."""
    return translations(language()).ngettext(singular, plural, count)
