"""The host keys of servers that are met for the first time: somebody has to compare them before we log in."""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kvm_backup.domain.errors import HostKeyError
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository.ssh.address import SshAddress
from kvm_backup.repository.ssh.connection import configured
from kvm_backup.repository.ssh.host_keys import HostKey, is_known, shown_key, trust


@dataclass(frozen=True, slots=True)
class Stranger:
    """A server whose host key nobody has accepted yet, and the key that it shows."""

    address: SshAddress
    key: HostKey
    config: Path | None

    @property
    def ssh_command(self) -> str:
        """What shows the same key to a person, and asks."""
        return shlex.join(["ssh", *configured(self.config), *self.address.login_words, self.address.host])

    def accept(self) -> Path:
        """Write the key down; returns the file of known hosts. Raises StorageError."""
        return trust(self.address, self.key, self.config)

    def refused(self) -> HostKeyError:
        """The error where nobody accepted it."""
        return HostKeyError(
            phrase("{place}: nobody has accepted the server's host key yet", place=self.address),
            hint=phrase(
                "Log in once by hand and compare the fingerprint: {command}; or add the repository in a terminal, "
                "without --yes. Nothing was changed.",
                command=self.ssh_command,
            ),
        )


def strangers(addresses: Iterable[SshAddress], config: Path | None) -> Iterator[Stranger]:
    """The servers among them that are not known, one after the other: accept one before asking for the next.

    Raises RemoteUnreachableError, HostKeyError when a host on the way is not known or shows another key,
    RemoteSetupError, ToolMissingError.
    """
    for address in addresses:
        if is_known(address, config):
            continue
        try:
            key = shown_key(address, config)
        except HostKeyError as error:
            raise HostKeyError(
                phrase("{place}: a host on the way there shows a key that is not known here", place=address),
                hint=phrase(
                    "Log in to the jump host once by hand (ProxyJump in ssh's configuration) and compare its "
                    "fingerprint. Nothing was changed."
                ),
            ) from error
        yield Stranger(address, key, config)
