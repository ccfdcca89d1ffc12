"""Rows for people: a table, or a block for each row where the screen is too narrow for the columns."""

import re
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_NARROWEST_FOLD = 20
"""A column that may be broken keeps this many columns of the screen; below that, nobody reads it."""
_WIDEST_BLOCK = 100
"""Longer lines of pairs are hard to read, however wide the screen is."""
_GAP = "  "
_INDENT = " " * 4
_NOTHING = ("", "-")


class Listing(Table):
    """A table without frame that cuts nothing.

    Each column has a title and `left`, `right`, or `fold`: left, broken when too long. Where the columns do not fit,
    a row becomes a block: its first two cells in a line, below them the others, each behind its title.
    """

    def __init__(self, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> None:
        super().__init__(box=None, pad_edge=False, header_style="bold")
        self._titles = [title for title, _justify in columns]
        self._rows_of_text = [[Text.from_markup(text) for text in row] for row in rows]
        for title, justify in columns:
            self.add_column(
                title,
                justify="right" if justify == "right" else "left",
                overflow="fold",
                no_wrap=justify != "fold",
            )
        for row in self._rows_of_text:
            self.add_row(*row)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._least_width() <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        for row in self._rows_of_text:
            yield from self._block(row, min(options.max_width, _WIDEST_BLOCK))

    def _least_width(self) -> int:
        widths = []
        for place, column in enumerate(self.columns):
            texts = [row[place] for row in self._rows_of_text]
            if self.show_header:
                texts.append(Text(self._titles[place]))
            widest = max((_width(text) for text in texts), default=0)
            widths.append(widest if column.no_wrap else min(widest, _NARROWEST_FOLD))
        return sum(widths) + len(_GAP) * (len(widths) - 1)

    def _block(self, row: list[Text], width: int) -> Iterator[Text]:
        titled = list(zip(self._titles, row, strict=True))
        head, others = row[0].copy(), titled[1:]
        head.stylize("bold")
        if others and _width(head) + len(_GAP) + _width(others[0][1]) <= width:
            head = Text(_GAP).join([head, others.pop(0)[1]])
        yield head
        line = Text()
        for title, text in others:
            if text.plain in _NOTHING:
                continue
            said = Text.assemble((title, "dim"), " ", Text(", ").join(text.split("\n")))
            if line and len(_INDENT) + line.cell_len + len(_GAP) + said.cell_len > width:
                yield from _indented(line, width)
                line = Text()
            line = Text(_GAP).join([line, said]) if line else said
        if line:
            yield from _indented(line, width)


def _indented(line: Text, width: int) -> Iterator[Text]:
    """The line broken between words where it must be; a word that is longer than the screen stays whole."""
    breaks, begin, room = [], 0, width - len(_INDENT)
    for word in re.finditer(r"\S+", line.plain):
        # One that fits into no line stays behind its title.
        if cell_len(word[0]) <= room < cell_len(line.plain[begin : word.end()]):
            begin = word.start()
            breaks.append(begin)
    for part in line.divide(breaks):
        part.rstrip()
        yield Text.assemble(_INDENT, part)


def _width(text: Text) -> int:
    return max((line.cell_len for line in text.split("\n")), default=0)
