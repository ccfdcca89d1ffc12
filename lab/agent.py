"""Talks to qemu-guest-agent in a test VM, through libvirt.

The commands are those of the QEMU guest agent protocol reference (qga/qapi-schema.json of QEMU).
"""

import base64
import json
import shlex
import time
from collections.abc import Sequence
from typing import Any

import libvirt
import libvirt_qemu

from lab.errors import GuestCommandError, LabError

_REPLY_SECONDS = 30
_CHUNK = 64 * 1024
"""Bytes of a file per message; with 256 KiB the agent of QEMU 7.2 stops answering."""


def ask(domain: libvirt.virDomain, command: str, *, reply_seconds: int = _REPLY_SECONDS, **arguments: object) -> Any:
    """Send one command and return what it answers.

    Raises libvirt.libvirtError: VIR_ERR_AGENT_UNRESPONSIVE when the agent is not connected or silent,
    VIR_ERR_AGENT_UNSYNCED while it catches up after it was silent, VIR_ERR_INTERNAL_ERROR when it refuses.
    """
    message: dict[str, object] = {"execute": command}
    if arguments:
        message["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
    return json.loads(libvirt_qemu.qemuAgentCommand(domain, json.dumps(message), reply_seconds, 0))["return"]


def wait_until_it_answers(domain: libvirt.virDomain, timeout: float) -> None:
    """Return when the agent answers a ping. Raises LabError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            ask(domain, "guest-ping", reply_seconds=2)
            return
        except libvirt.libvirtError as error:
            if time.monotonic() > deadline:
                message = f"the agent of {domain.name()} did not answer within {timeout:.0f} s: {error}"
                raise LabError(message) from error
        time.sleep(0.1)


def execute(domain: libvirt.virDomain, command: str | Sequence[str], timeout: float) -> str:
    """Run a shell line or an argv in the guest and return its stdout (undecodable bytes replaced).

    Raises GuestCommandError when its status is not 0, LabError when it takes longer than `timeout` seconds.
    """
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    shown = command if isinstance(command, str) else shlex.join(command)
    pid = ask(domain, "guest-exec", path=argv[0], arg=argv[1:], capture_output=True)["pid"]
    deadline = time.monotonic() + timeout
    pause = 0.02
    while not (status := ask(domain, "guest-exec-status", pid=pid))["exited"]:
        if time.monotonic() > deadline:
            raise LabError(f"in the guest, {shown!r} did not end within {timeout:.0f} s")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.5)
    stdout, stderr = (_text(status.get(stream, "")) for stream in ("out-data", "err-data"))
    # An ended process has a status or the signal that ended it.
    code = status.get("exitcode", -status.get("signal", 0))
    if code != 0:
        raise GuestCommandError(shown, code, stdout, stderr)
    return stdout


def write_file(domain: libvirt.virDomain, path: str, content: bytes) -> None:
    """Replace a file in the guest."""
    handle = ask(domain, "guest-file-open", path=path, mode="w")
    try:
        rest = memoryview(content)
        while rest:
            encoded = base64.b64encode(rest[:_CHUNK]).decode()
            written = ask(domain, "guest-file-write", handle=handle, buf_b64=encoded)["count"]
            rest = rest[written:]
    finally:
        ask(domain, "guest-file-close", handle=handle)


def read_file(domain: libvirt.virDomain, path: str) -> bytes:
    """The content of a file in the guest."""
    handle = ask(domain, "guest-file-open", path=path, mode="r")
    content = bytearray()
    try:
        while True:
            answer = ask(domain, "guest-file-read", handle=handle, count=_CHUNK)
            content += base64.b64decode(answer["buf-b64"])
            if answer["eof"] or not answer["count"]:
                return bytes(content)
    finally:
        ask(domain, "guest-file-close", handle=handle)


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode(errors="replace")
