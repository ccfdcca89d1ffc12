"""The first meeting with a server: which host key it shows, and writing down that the user trusts it.

ssh itself is asked, not ssh-keyscan, so that Host aliases, ports and jump hosts of the user's configuration count. No
login is tried, and the key goes to a file of its own until somebody has compared its fingerprint.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from kvm_backup import process
from kvm_backup.domain.errors import RemoteAccessError, StorageError
from kvm_backup.domain.phrase import phrase
from kvm_backup.process import Completed
from kvm_backup.repository.ssh.address import SshAddress
from kvm_backup.repository.ssh.connection import FIRM_OPTIONS, configured
from kvm_backup.repository.ssh.failures import SSH_FAILED, HostKeyUnknownError, failure
from kvm_backup.repository.ssh.private_folder import private_folder

_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class HostKey:
    """A line for known_hosts, and what a person compares: `256 SHA256:… (ED25519)`."""

    line: str
    fingerprint: str


def shown_key(address: SshAddress, config: Path | None = None) -> HostKey:
    """The key that the server shows right now, trusted or not. Raises RemoteUnreachableError."""
    with private_folder() as folder:
        known = folder / "known_hosts"
        # With the user's HashKnownHosts: the line is to be like those that ssh adds by itself.
        done = _meet(
            address,
            config,
            StrictHostKeyChecking="accept-new",
            UserKnownHostsFile=str(known),
            GlobalKnownHostsFile="/dev/null",
        )
        lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
        if not lines:
            raise failure(str(address), Completed(SSH_FAILED, "", done.stderr))
        told = process.run(["ssh-keygen", "-l", "-f", known], timeout=_TIMEOUT).stdout.splitlines()[0].split()
    return HostKey(lines[0], " ".join([*told[:2], told[-1]]))


def is_known(address: SshAddress, config: Path | None = None) -> bool:
    """Whether ssh takes the key that the server shows right now for one that is known: by all its files of known
    hosts, hashed names, certificates and revoked keys.

    Raises HostKeyError when another key is known of that server, RemoteUnreachableError.
    """
    done = _meet(address, config)
    told = failure(str(address), done)
    if isinstance(told, HostKeyUnknownError):
        return False
    # The login comes after the host key.
    if done.status == 0 or isinstance(told, RemoteAccessError):
        return True
    raise told


def trust(address: SshAddress, key: HostKey, config: Path | None = None) -> Path:
    """Add the key to the known_hosts of the user's configuration; returns that file.

    Raises HostKeyError when another key is known of that server, which must be forgotten first, StorageError,
    RemoteUnreachableError.
    """
    file = _own_file(address, config)
    if is_known(address, config):
        return file
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with file.open("a+b") as known:
            known.seek(0)
            before = known.read()
            known.write((b"" if not before or before.endswith(b"\n") else b"\n") + key.line.encode() + b"\n")
            known.flush()
            os.fsync(known.fileno())
    except OSError as error:
        raise StorageError(
            phrase("the host key cannot be added to {file}: {error}", file=file, error=error),
            hint=phrase("Check that this user may write that file."),
        ) from error
    return file


def _meet(address: SshAddress, config: Path | None, **other: str) -> Completed:
    """Connect as far as the host key goes, and no further: no way to log in is tried."""
    options = {
        **FIRM_OPTIONS,
        "PreferredAuthentications": "none",
        "ControlPath": "none",
        "ConnectTimeout": "20",
        **other,
    }
    words = ["ssh", *configured(config), *(f"-o{name}={value}" for name, value in options.items())]
    words += [*address.login_words, "--", address.host, "true"]
    return process.run(words, timeout=_TIMEOUT, check=False, own_session=True)


def _own_file(address: SshAddress, config: Path | None) -> Path:
    """Where ssh itself would add a key. A link there stays one: its target is written."""
    words = ["ssh", *configured(config), "-G", *address.login_words, "--", address.host]
    for line in process.run(words, timeout=_TIMEOUT).stdout.splitlines():
        name, _, value = line.partition(" ")
        if name == "userknownhostsfile" and value and value.split()[0] not in ("none", "/dev/null"):
            return Path(value.split()[0]).expanduser()
    raise StorageError(
        phrase("ssh's configuration names no file of known hosts for {place}", place=address),
        hint=phrase(
            "Set UserKnownHostsFile for that host, in ~/.ssh/config or the file that KVM_BACKUP_SSH_CONFIG names."
        ),
    )
