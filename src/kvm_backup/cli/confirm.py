"""Asking before something is destroyed."""

import sys

from kvm_backup.cli.language import _, language, told
from kvm_backup.cli.output import printable, prose
from kvm_backup.cli.progress import quiet_screen

_YES = {"en": ("y", "yes"), "fr": ("o", "oui", "y", "yes")}


def agrees(question: str) -> bool:
    """Asks once on the terminal, and takes all but a yes for a no; without a terminal nobody can agree."""
    if not sys.stdin.isatty():
        return False
    answers = _YES[language()]
    with quiet_screen():
        asked = _("{question} [{yes}/N]:").format(question=printable(told(question)), yes=answers[0])
        sys.stdout.write(prose(asked) + " ")
        sys.stdout.flush()
        answer = sys.stdin.readline()
        if not answer.endswith("\n"):
            sys.stdout.write("\n")
    return answer.strip().lower() in answers
