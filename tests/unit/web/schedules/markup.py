"""HTML as a tree, as far as the tests of pages need it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


@dataclass(eq=False)
class Element:
    """One element. `content` holds texts and elements."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    content: list["str | Element"] = field(default_factory=list)

    def __getitem__(self, name: str) -> str:
        return self.attributes[name]

    @property
    def text(self) -> str:
        """All texts below it, with single spaces."""
        return " ".join("".join(self._texts()).split())

    def _texts(self) -> Iterator[str]:
        for part in self.content:
            if isinstance(part, str):
                yield part
            else:
                yield from part._texts()
                yield " "

    def walk(self) -> Iterator["Element"]:
        """It and all elements below it."""
        yield self
        for part in self.content:
            if isinstance(part, Element):
                yield from part.walk()

    def all(self, tag: str = "", **attributes: str) -> list["Element"]:
        """Elements with this tag and these attributes; a `class_` is one of several, underlines are dashes."""
        return [one for one in self.walk() if (not tag or one.tag == tag) and one._has(attributes)]

    def one(self, tag: str = "", **attributes: str) -> "Element":
        """The only one."""
        found = self.all(tag, **attributes)
        assert len(found) == 1, f"{len(found)} {tag} {attributes}"
        return found[0]

    def _has(self, wanted: dict[str, str]) -> bool:
        for name, value in wanted.items():
            held = self.attributes.get(name.rstrip("_").replace("_", "-"))
            if held is None or (value not in held.split() if name == "class_" else held != value):
                return False
        return True

    def fields(self) -> dict[str, list[str]]:
        """What a browser would send of this form, without its buttons."""
        sent: dict[str, list[str]] = {}
        for one in self.walk():
            name = one.attributes.get("name", "")
            if one.tag == "select":
                options = one.all("option")
                chosen = [option for option in options if "selected" in option.attributes] or options[:1]
                sent.setdefault(name, []).extend(option["value"] for option in chosen)
            elif one.tag == "textarea":
                sent.setdefault(name, []).append("".join(map(str, one.content)).removeprefix("\n"))
            elif one.tag == "input" and name and _is_sent(one):
                sent.setdefault(name, []).append(one.attributes.get("value", "on"))
        return sent


def _is_sent(field_: Element) -> bool:
    return field_.attributes.get("type") not in ("checkbox", "radio") or "checked" in field_.attributes


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("")
        self.open = [self.root]
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        if tag == "template":
            self.hidden += 1
        if not self.hidden:
            self.open[-1].content.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "template":
            self.hidden -= 1
        assert self.open[-1].tag == tag, f"</{tag}> ends <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].content.append(data)


def parse(html: str) -> Element:
    """A page or a fragment; what stands in a template is left out. Fails where tags do not match."""
    builder = _Builder()
    builder.feed(html)
    builder.close()
    assert len(builder.open) == 1, builder.open[-1].tag
    return builder.root
