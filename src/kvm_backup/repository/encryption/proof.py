"""A test decryption before a key is used: whoever lost the private key, or never had it, learns it now.

Each recipient that passed has a file named after it, so that two commands at once lose nothing.
"""

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pyrage

from kvm_backup.domain.errors import EncryptionKeyError
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository import durable
from kvm_backup.repository.encryption.keys import Identities, as_recipients, check_recipient

FOLDER = "proved-recipients"
"""In the state folder."""
_SAMPLE = 100_000
"""Bytes: more than one of age's chunks."""


def prove(recipient: str, identities: Identities) -> None:
    """Encrypt something for `recipient` and open it with the private keys. Raises EncryptionKeyError."""
    sample = os.urandom(_SAMPLE)
    encrypted = pyrage.encrypt(sample, as_recipients([recipient]))
    try:
        opened = pyrage.decrypt(encrypted, [pyrage.x25519.Identity.from_str(secret) for secret in identities.secrets])
    except pyrage.DecryptError as error:
        raise _not_proved(recipient) from error
    if opened != sample:
        raise _not_proved(recipient)


class ProvedRecipients:
    """The recipients whose private key was there once, on this host. `folder` lies in the state folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prove(self, recipient: str, identities: Identities) -> None:
        """Prove it and write that down. Raises EncryptionKeyError, StorageError, NoSpaceError."""
        prove(recipient, identities)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise durable.storage_error(error, self._folder) from error
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        durable.replace_content(self._folder / recipient, f"{moment}\n".encode())

    def unproved(self, recipients: Iterable[str]) -> list[str]:
        """Those of them that never passed. Raises EncryptionKeyError when one is no recipient."""
        return [each for each in recipients if not (self._folder / check_recipient(each)).is_file()]

    def require(self, recipients: Iterable[str]) -> None:
        """Raises EncryptionKeyError unless each of them has passed."""
        if unproved := self.unproved(recipients):
            raise EncryptionKeyError(
                phrase("nobody has shown yet that {recipient} can be decrypted again", recipient=unproved[0]),
                hint=phrase(
                    "Nothing was sent. Test it with its private key: "
                    "kvm-backup key check FILE --recipient {recipient}",
                    recipient=unproved[0],
                ),
            )


def _not_proved(recipient: str) -> EncryptionKeyError:
    return EncryptionKeyError(
        phrase("what is encrypted for {recipient} cannot be decrypted with this key", recipient=recipient),
        hint=phrase("Give the private key that belongs to it, or use the public key that belongs to this one."),
    )
