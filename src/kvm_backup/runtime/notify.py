"""Telling systemd how the service does, by its protocol: a datagram to the socket that $NOTIFY_SOCKET names.

Source: the manual page sd_notify(3), section "Notes". Without systemd every call does nothing.
"""

import os
import socket
from contextlib import suppress


def notify(*states: str) -> None:
    """Send states such as `READY=1`. A manager that does not listen is no trouble of ours."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    # A name that begins with @ stands for the abstract namespace, whose addresses begin with a zero byte.
    target = "\0" + address[1:] if address.startswith("@") else address
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto("\n".join(states).encode(), target)
