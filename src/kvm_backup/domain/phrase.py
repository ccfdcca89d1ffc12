"""Texts that can be told in another language: English, and what they were made of."""

from typing import Self


class Phrase(str):
    """An English text that remembers its template and values; everywhere else it is that text.

    `kvm_backup.language.told` tells it in another language. A copy, a pickle and JSON hold the English text alone.
    """

    __slots__ = ("template", "values")

    template: str
    values: dict[str, object]

    def __new__(cls, template: str, values: dict[str, object]) -> Self:
        made = super().__new__(cls, template.format(**values) if values else template)
        made.template = template
        made.values = values
        return made

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


def phrase(template: str, /, **values: object) -> Phrase:
    """A text for people, such as `phrase("no VM is called {name!r}", name=name)`; values may be phrases, too.

    The template must be written out where this is called: a test looks there for texts that lack their French one.
    """
    return Phrase(template, values)


def listed(separator: str, *texts: str) -> Phrase:
    """Several texts, one behind the other; empty when there is none."""
    values = {f"text_{number}": text for number, text in enumerate(texts)}
    return Phrase(separator.join(f"{{{name}}}" for name in values), {**values})


def sentences(*texts: str) -> Phrase:
    """Sentences, one behind the other."""
    return listed(" ", *texts)
