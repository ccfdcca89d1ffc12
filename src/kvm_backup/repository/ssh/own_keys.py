"""What to do when a server refuses the login: which public key belongs where."""

import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kvm_backup import process
from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.phrase import Phrase, phrase, sentences
from kvm_backup.repository.ssh.address import SshAddress

_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class _Offered:
    """Of ssh's configuration for a host: as whom it logs in, and the public keys of this user that exist."""

    user: str
    keys: tuple[Path, ...]


def how_to_be_let_in(address: SshAddress, config: Path | None) -> Phrase:
    """A hint for a refused login: the key that ssh offers, the account, and the command that brings it there."""
    offered = _offered(address, config)
    # ssh-copy-id makes the file of the account's keys, too, with the modes that sshd wants.
    to = [*(["-F", str(config)] if config else []), *(["-p", str(address.port)] if address.port else [])]
    account = f"{offered.user}@{address.host}" if offered.user else address.host
    tries = shlex.join(["ssh", *(["-F", str(config)] if config else []), *address.login_words, "-v", address.host])
    if not offered.keys:
        return sentences(
            phrase(
                "This user has no key for ssh yet: 'ssh-keygen -t ed25519' makes one. While the account {account} "
                "takes a password, '{command}' brings it there; else add its public part to authorized_keys there.",
                account=account,
                command=shlex.join(["ssh-copy-id", *to, account]),
            ),
            phrase("KVM Backup asks for no password."),
        )
    file = str(offered.keys[0])
    return sentences(
        phrase(
            "The line in {file} must be in authorized_keys of the account {account}: while that takes a password, "
            "'{command}' brings it there.",
            file=file,
            account=account,
            command=shlex.join(["ssh-copy-id", "-i", file, *to, account]),
        ),
        phrase("If it is there already, '{command}' shows why it is not taken.", command=tries),
        phrase("KVM Backup asks for no password; a key with a passphrase needs an agent."),
    )


def _offered(address: SshAddress, config: Path | None) -> _Offered:
    words = ["ssh", *(["-F", str(config)] if config else []), "-G", *address.login_words, "--", address.host]
    user, keys = address.user or "", []
    with suppress(KvmBackupError):
        for line in process.run(words, timeout=_SECONDS, own_session=True).stdout.splitlines():
            name, _, value = line.partition(" ")
            if name == "user":
                user = value
            elif name == "identityfile":
                with suppress(OSError, RuntimeError):
                    public = Path(f"{value}.pub").expanduser()
                    if public.is_file():
                        keys.append(public)
    return _Offered(user, tuple(keys))
