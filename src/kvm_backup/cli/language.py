"""Texts in the language of whoever types the command: French where the environment asks for it, else English."""

import os
from collections.abc import Mapping

from kvm_backup import language as languages

VARIABLE = "KVM_BACKUP_LANG"


def language(environment: Mapping[str, str] = os.environ) -> str:
    """`fr` or `en`, from KVM_BACKUP_LANG, else LC_ALL, LC_MESSAGES, LANG: the first that is set decides."""
    for name in (VARIABLE, "LC_ALL", "LC_MESSAGES", "LANG"):
        value = environment.get(name)
        if value:
            return "fr" if value.lower().replace("-", "_").split("_")[0].split(".")[0] == "fr" else "en"
    return "en"


def _(message: str) -> str:
    """A text in the user's language."""
    return languages.translations(language()).gettext(message)


def ngettext(singular: str, plural: str, count: int) -> str:
    """A text that depends on a number, in the user's language."""
    return languages.translations(language()).ngettext(singular, plural, count)


def told(text: str) -> str:
    """What an error or an event says, in the user's language as far as it is a phrase."""
    return languages.told(text, language())
