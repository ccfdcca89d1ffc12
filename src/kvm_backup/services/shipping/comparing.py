"""Makes sure that a mirror tells what is on the server, which may have been set back to an older state."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from kvm_backup.domain.errors import CancelledError, KvmBackupError, RemoteAccessError
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository.mirror import Mirror
from kvm_backup.repository.ssh.remote import Remote
from kvm_backup.services.shipping.sizes_there import forget_what_is_incomplete


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of one remote; `may_read` tells that nobody need be asked for a key to read there."""

    mirror: Mirror
    zone: ZoneInfo
    clock: Callable[[], datetime]
    may_read: bool

    @property
    def is_due(self) -> bool:
        """Once a day, and after what went wrong."""
        last = self.mirror.compared
        return last is None or last.astimezone(self.zone).date() != self.clock().astimezone(self.zone).date()

    def make(self, remote: Remote) -> str | None:
        """Read what is there, where an account may. That it cannot be read now keeps nothing from being sent: why, in
        a phrase, and None when there is nothing more to find out. Raises CancelledError, StorageError.
        """
        try:
            if self.may_read:
                remote.refresh(self.mirror.root)
                self.mirror.note_read()
            else:
                forget_what_is_incomplete(self.mirror, remote)
        except CancelledError:
            raise
        except RemoteAccessError:
            pass  # a key that only adds
        except KvmBackupError as error:
            return phrase("what is there could not be compared: {cause}", cause=error.message)
        self.mirror.note_compared()
        return None
