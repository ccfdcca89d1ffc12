"""Parsing and writing of XML that may come from a hostile repository."""

import xml.etree.ElementTree as ET

from kvm_backup.domain.errors import HypervisorError
from kvm_backup.domain.phrase import phrase

MAX_XML_BYTES = 16 * 1024 * 1024
"""Far above any real domain; libvirt itself refuses RPC strings above 4 MiB."""

ET.register_namespace("qemu", "http://libvirt.org/schemas/domain/qemu/1.0")
ET.register_namespace("libosinfo", "http://libosinfo.org/xmlns/libvirt/domain/1.0")


class _NoDoctype(ET.TreeBuilder):
    """Refuses a document type before expat reads the entities it may declare."""

    def doctype(self, name: str, *_where: str | None) -> None:
        raise HypervisorError(
            phrase("the XML declares a document type ({name})", name=name),
            hint=phrase("libvirt never writes one: the file was made or changed by something else; do not use it."),
        )


def parse(text: str, *, root: str) -> ET.Element:
    """Parse `text`, whose root element must be called `root`.

    Raises HypervisorError for what is not XML, has another root, declares a document type (so no entity is ever
    expanded or fetched), or is larger than MAX_XML_BYTES.
    """
    if len(text) > MAX_XML_BYTES:
        raise HypervisorError(
            phrase("the XML is larger than {max_xml_bytes} bytes", max_xml_bytes=MAX_XML_BYTES),
            hint=phrase("This is not a description that libvirt wrote."),
        )
    parser = ET.XMLParser(target=_NoDoctype())  # noqa: S314 (no document type, hence no entity, passes)
    try:
        parser.feed(text)
        element: ET.Element = parser.close()
    except (ET.ParseError, ValueError) as error:
        raise HypervisorError(
            phrase("the XML cannot be parsed: {error}", error=error),
            hint=phrase("The file is damaged; use another restore point."),
        ) from error
    if element.tag != root:
        raise HypervisorError(
            phrase("the XML describes <{tag}>, not <{root}>", tag=element.tag, root=root),
            hint=phrase("This is not the file that was expected here."),
        )
    return element


def to_text(element: ET.Element) -> str:
    """Serialise with two spaces of indentation; markup in names and paths is escaped."""
    ET.indent(element)
    return ET.tostring(element, encoding="unicode") + "\n"


def text_of(parent: ET.Element, path: str) -> str | None:
    """The text at `path` without surrounding white space, or None when there is none."""
    found = parent.findtext(path)
    return found.strip() if found is not None and found.strip() else None
