"""A name that would be a program, and how a page shows it."""

from tests.unit.web.schedules.markup import Element

EVIL = "<img src=x onerror=alert(1)>\"'</script><b>&amp;"


def is_text(page: Element, text: str = EVIL) -> None:
    """The page says it, and made no element and no attribute of it."""
    assert " ".join(text.split()) in page.text
    made = [
        one.tag for one in page.walk() if one.tag in ("img", "b") or any(n.startswith("on") for n in one.attributes)
    ]
    assert made == []
    links = [one["href"] for one in page.all("a")]
    assert [link for link in links if not link.startswith(("/", "#"))] == []
