"""age keys as text: public ones (recipients), and the files with private ones (identities) that age-keygen writes.

Only X25519 keys are taken (https://age-encryption.org/v1). No message ever repeats a private key, or what may be one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import pyrage

from kvm_backup.domain.errors import DamagedPointError, EncryptionKeyError
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository import durable

IDENTITY_PREFIX = "AGE-SECRET-KEY-1"
_RECIPIENT = r"age1[02-9ac-hj-np-z]{58}"
_FILE_MAX = 64 << 10
_IDENTITIES_MAX = 64
_FOREIGN = (
    (("age-encryption.org/", "-----BEGIN AGE ENCRYPTED FILE"), phrase("it is encrypted with a passphrase")),
    (("-----BEGIN", "ssh-", "ecdsa-", "sk-"), phrase("it is an SSH key")),
    (("AGE-PLUGIN-", "AGE-SECRET-KEY-PQ-"), phrase("it is a key of another kind than X25519")),
    (("age1",), phrase("it is the public key; the private one is needed")),
)
_HINT_FOREIGN = phrase(
    "Give a file with lines AGE-SECRET-KEY-1…, as 'kvm-backup key new' and age-keygen write it; 'age -d' opens one "
    "that has a passphrase."
)


@dataclass(frozen=True, slots=True, repr=False)
class Identities:
    """Private keys, at least one. `recipients` are the public ones that belong to them."""

    secrets: tuple[str, ...]

    @classmethod
    def new(cls) -> Self:
        """One new key."""
        return cls((str(pyrage.x25519.Identity.generate()),))

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Read what an identity file holds. `where` names it in errors. Raises EncryptionKeyError."""
        lines = [line.strip() for line in text.splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        if not lines:
            raise EncryptionKeyError(phrase("{where} holds no key", where=where), hint=_HINT_FOREIGN)
        if len(lines) > _IDENTITIES_MAX:
            raise _unusable(where, phrase("it has more than {count} keys", count=_IDENTITIES_MAX))
        for line in lines:
            for prefixes, kind in _FOREIGN:
                if line.startswith(prefixes):
                    raise _unusable(where, kind)
            try:
                pyrage.x25519.Identity.from_str(line)
            except pyrage.IdentityError:
                raise _unusable(where, phrase("a line of it is no whole key")) from None
        return cls(tuple(lines))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read an identity file. Raises EncryptionKeyError, StorageError."""
        try:
            content = durable.read_limited(path.resolve(), _FILE_MAX)
        except (DamagedPointError, RuntimeError) as error:
            raise EncryptionKeyError(
                phrase("the file with the private key is not there: {path}", path=path),
                hint=phrase("Bring it back from where you keep it, or name another file."),
            ) from error
        if len(content) > _FILE_MAX:
            raise _unusable(str(path), phrase("it is larger than a file of keys can be"))
        return cls.parse(content.decode(errors="replace"), str(path))

    @property
    def recipients(self) -> tuple[str, ...]:
        return tuple(str(pyrage.x25519.Identity.from_str(secret).to_public()) for secret in self.secrets)

    def file_text(self, now: datetime) -> str:
        """As age-keygen writes it: each key under the time and its public key."""
        moment = now.astimezone(UTC).isoformat(timespec="seconds")
        pairs = zip(self.recipients, self.secrets, strict=True)
        return "".join(f"# created: {moment}\n# public key: {public}\n{secret}\n" for public, secret in pairs)


def check_recipient(text: str) -> str:
    """A public key as it was given. Raises EncryptionKeyError when it is none of age's X25519 kind."""
    try:
        if not re.fullmatch(_RECIPIENT, text):
            raise pyrage.RecipientError
        pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        if text.upper().startswith("AGE-SECRET-KEY"):
            raise EncryptionKeyError(
                phrase("a private key was given where a public one belongs"),
                hint=phrase("Give age1…. Should others have seen the private key, make a new one."),
            ) from None
        raise EncryptionKeyError(
            phrase("{text!r} is no public key of age", text=text[:100]),
            hint=phrase("Give age1… as 'kvm-backup key new' prints it; SSH keys and keys of plugins are not taken."),
        ) from None
    return text


def as_recipients(texts: Sequence[str]) -> list[pyrage.x25519.Recipient]:
    return [pyrage.x25519.Recipient.from_str(check_recipient(text)) for text in texts]


def _unusable(where: str, cause: str) -> EncryptionKeyError:
    return EncryptionKeyError(
        phrase("the private key in {where} cannot be used: {cause}", where=where, cause=cause), hint=_HINT_FOREIGN
    )
