"""Several values after one flag, which Click has not: `--vms web db` becomes `--vms=web --vms=db`."""

from collections.abc import Sequence

from kvm_backup.domain.errors import InvalidScheduleError
from kvm_backup.domain.phrase import phrase

_FLAGS = {
    "--vms": ("vm_names", phrase("one VM or more after --vms, such as --vms web db")),
    "--ship-to": ("ship_to", phrase("a repository's name or more after --ship-to, or none, or default")),
}
"""The field of each, and what is expected after it."""
_COMMANDS = ("add", "edit")


def expand(arguments: Sequence[str]) -> list[str]:
    """The arguments with one flag for each value, where they are those of `schedule add` or `schedule edit`.

    The values end at the next option. After `--` everything is a value, so that names may begin with a dash.
    Raises InvalidScheduleError when no value follows the flag.
    """
    words = [word for word in arguments[:2] if word != "schedule"]
    if not words or words[0] not in _COMMANDS:
        return list(arguments)
    expanded: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*expanded, word, *rest]
        if word not in _FLAGS:
            expanded.append(word)
            continue
        values, rest = _values(rest)
        if not values:
            field, expected = _FLAGS[word]
            raise InvalidScheduleError(field, "", expected)
        expanded += [f"{word}={value}" for value in values]
    return expanded


def _values(words: list[str]) -> tuple[list[str], list[str]]:
    for place, word in enumerate(words):
        if word == "--":
            return words[:place] + words[place + 1 :], []
        if word.startswith("-") and word != "-":
            return words[:place], words[place:]
    return words, []
