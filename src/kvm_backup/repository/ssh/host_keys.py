"""The first meeting with a server: which host key it shows, and writing down that the user trusts it.

ssh itself is asked, not ssh-keyscan, so that Host aliases, ports and jump hosts of the user's configuration count. No
login is tried, and the key goes to a file of its own until somebody has compared its fingerprint.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from kvm_backup import process
from kvm_backup.domain.errors import StorageError
from kvm_backup.domain.phrase import phrase
from kvm_backup.process import Completed
from kvm_backup.repository.ssh.address import SshAddress
from kvm_backup.repository.ssh.connection import FIRM_OPTIONS, configured
from kvm_backup.repository.ssh.failures import SSH_FAILED, failure

_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class HostKey:
    """A line for known_hosts, and what a person compares: `256 SHA256:… (ED25519)`."""

    line: str
    fingerprint: str


def shown_key(address: SshAddress, config: Path | None = None) -> HostKey:
    """The key that the server shows right now, trusted or not. Raises RemoteUnreachableError."""
    with tempfile.TemporaryDirectory(prefix="kvm-backup-ssh-") as folder:
        known = Path(folder) / "known_hosts"
        options = {
            **FIRM_OPTIONS,
            "StrictHostKeyChecking": "accept-new",
            "UserKnownHostsFile": str(known),
            "GlobalKnownHostsFile": "/dev/null",
            "HashKnownHosts": "no",
            "PreferredAuthentications": "none",
            "ControlPath": "none",
            "ConnectTimeout": "20",
        }
        words = ["ssh", *configured(config), *(f"-o{name}={value}" for name, value in options.items())]
        done = process.run([*words, *address.login_words, "--", address.host, "true"], timeout=_TIMEOUT, check=False)
        lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
        if not lines:
            raise failure(str(address), Completed(SSH_FAILED, "", done.stderr))
        told = process.run(["ssh-keygen", "-l", "-f", known], timeout=_TIMEOUT).stdout.split()
    return HostKey(lines[0], " ".join([*told[:2], told[-1]]))


def is_known(address: SshAddress, config: Path | None = None) -> bool:
    """Whether known_hosts holds a key of that server."""
    settings = _settings(address, config)
    name = _name_in_file(settings, address)
    files = [Path(word).expanduser() for key in _KNOWN for word in settings.get(key, "").split()]
    found = [process.run(["ssh-keygen", "-F", name, "-f", file], timeout=_TIMEOUT, check=False) for file in files]
    return any(done.status == 0 for done in found)


def trust(address: SshAddress, key: HostKey, config: Path | None = None) -> Path:
    """Add the key to the known_hosts of the user's configuration; returns that file. Raises StorageError."""
    words = _settings(address, config).get("userknownhostsfile", "~/.ssh/known_hosts").split()
    file = Path(words[0]).expanduser()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        with file.open("a", encoding="utf-8") as known:
            known.write(("" if not before or before.endswith("\n") else "\n") + key.line + "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(
            phrase("the host key cannot be added to {file}: {error}", file=file, error=error),
            hint=phrase("Check that this user may write that file."),
        ) from error
    return file


_KNOWN = ("userknownhostsfile", "globalknownhostsfile")


def _settings(address: SshAddress, config: Path | None) -> dict[str, str]:
    words = ["ssh", *configured(config), "-G", *address.login_words, "--", address.host]
    lines = process.run(words, timeout=_TIMEOUT).stdout.splitlines()
    return {name: value for name, _, value in (line.partition(" ") for line in lines)}


def _name_in_file(settings: dict[str, str], address: SshAddress) -> str:
    alias = settings.get("hostkeyalias")
    if alias:
        return alias
    host, port = settings.get("hostname", address.host), settings.get("port", "22")
    return host if port == "22" else f"[{host}]:{port}"
