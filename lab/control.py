"""A way into the guest that needs no agent: a virtio port on which the guest runs the lines that it reads."""

import socket
import xml.etree.ElementTree as ET

import libvirt

from lab.domain_xml import CONTROL_PORT
from lab.errors import GuestCommandError, LabError


def run_line(domain: libvirt.virDomain, line: str, timeout: float = 60.0) -> None:
    """Run one shell line in the guest as root; its output is lost.

    Raises GuestCommandError when its status is not 0, LabError when no answer came within `timeout` seconds.
    """
    if "\n" in line:
        raise ValueError("the port takes one line")
    with socket.socket(socket.AF_UNIX) as port:
        port.settimeout(timeout)
        try:
            port.connect(_socket_path(domain))
            port.sendall(line.encode() + b"\n")
            answer = _read_line(port)
        except OSError as error:
            raise LabError(f"the guest of {domain.name()} did not answer {line!r}: {error}") from error
    word, _, status = answer.partition(" ")
    if word != "status":
        raise LabError(f"the guest of {domain.name()} answered {answer!r} to {line!r}")
    if status != "0":
        raise GuestCommandError(line, int(status), "", "")


def _socket_path(domain: libvirt.virDomain) -> str:
    for channel in ET.fromstring(domain.XMLDesc()).iter("channel"):
        target, source = channel.find("target"), channel.find("source")
        if target is not None and source is not None and target.get("name") == CONTROL_PORT:
            return source.get("path", "")
    raise LabError(f"{domain.name()} does not run, or has no guest of the lab")


def _read_line(port: socket.socket) -> str:
    answer = b""
    while not answer.endswith(b"\n"):
        part = port.recv(4096)
        if not part:
            raise OSError("the port was closed")
        answer += part
    return answer.decode().strip()
