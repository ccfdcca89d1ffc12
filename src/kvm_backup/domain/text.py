"""Text from outside, made harmless for terminals and logs."""

import unicodedata


def printable(text: str) -> str:
    """Text from outside with control characters escaped, so that a VM's name cannot steer a terminal."""
    if text.isprintable():
        return text
    # Spaces that do not break, which French puts before its colons, are harmless, too.
    return "".join(
        letter
        if letter.isprintable() or unicodedata.category(letter) == "Zs"
        else letter.encode("unicode_escape").decode()
        for letter in text
    )
