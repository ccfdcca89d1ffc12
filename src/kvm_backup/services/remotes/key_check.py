"""Whether the keys for what is encrypted at a remote are at hand, and fit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvm_backup.domain.phrase import phrase
from kvm_backup.repository.encryption.keys import Identities
from kvm_backup.repository.encryption.reading import no_identities, require_key
from kvm_backup.services.checks import Check, Health


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """`title` names the check, `place` is the remote's address. `require_proved` raises for recipients whose private
    key nobody has shown; `known` is the folder with the encrypted manifests that were read."""

    title: str
    place: str
    recipients: Sequence[str]
    identity_file: Path | None
    require_proved: Callable[[Sequence[str]], None]
    known: Path

    def __call__(self, encrypted: bool | None) -> Check | None:
        """`encrypted`: whether the points there are, None when that is not known; the result is None where there is
        nothing to tell. Raises EncryptionKeyError, StorageError.
        """
        self.require_proved(self.recipients)
        if self.identity_file is not None:
            return self._with_file(self.identity_file)
        if self.recipients:
            return Check(
                self.title,
                Health.OK,
                phrase("each public key has passed its test; no private key is on this host, restoring asks for it"),
            )
        if encrypted:
            missing = no_identities(self.place)
            return Check(self.title, Health.WARNING, missing.message, missing.hint)
        return None

    def _with_file(self, file: Path) -> Check:
        identities = Identities.load(file)
        if self.recipients and not {*self.recipients} & {*identities.recipients}:
            return Check(
                self.title,
                Health.PROBLEM,
                phrase("the private key in {file} belongs to none of the recipients", file=file),
                phrase("Correct identity_file in the settings: no point could be read with that key."),
            )
        require_key(self.known, identities)
        return Check(self.title, Health.OK, phrase("the private key in {file} fits", file=file))
