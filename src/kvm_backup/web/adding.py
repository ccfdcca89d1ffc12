"""Adding a repository on another server, as the form and the API do: the host key first, then all the rest."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from threading import Lock

from fastapi import Request

from kvm_backup.bootstrap.remotes import Added, NewRemote
from kvm_backup.domain.errors import VmBusyError
from kvm_backup.domain.phrase import phrase
from kvm_backup.services.remotes.deadline import Deadline
from kvm_backup.services.remotes.meeting import Stranger
from kvm_backup.web.security.access import application_of
from kvm_backup.web.security.audit import note

SECONDS = 100.0
"""How long the server may take, once it lets us in."""
_TOO_SLOW = phrase(
    "Nothing was added. A repository that holds very many points is added with 'kvm-backup repository add', which "
    "waits for as long as it takes."
)
_one_at_a_time = Lock()


def add_or_ask(request: Request, new: NewRemote, accepted: Collection[str]) -> Added | Stranger:
    """Add it; or return the server whose host key nobody has accepted: show it, and come again with its `key_mark`.

    The key that is trusted is the one that was shown: it is compared with what the server shows now. Raises
    KvmBackupError, as `Remotes.add`; VmBusyError while another one is being added.
    """
    remotes = application_of(request).remotes
    note(request, "repository.add", new.name, new.url)
    with _alone():
        for stranger in remotes.strangers(new):
            if key_mark(stranger) not in accepted:
                return stranger
            note(request, "repository.add", new.name, f"{new.url}, host key {stranger.key.fingerprint}")
            stranger.accept()
        added = remotes.add(new, Deadline(SECONDS, _TOO_SLOW))
    note(request, "repository.add", added.name, f"{added.address}, of {added.joined.of or '-'}")
    application_of(request).shipping.facts.revision += 1
    return added


def key_mark(stranger: Stranger) -> str:
    """What tells a server's key from any other: it is shown, comes back, and must still be the same."""
    return f"{stranger.address.host} {stranger.key.fingerprint}"


@contextmanager
def _alone() -> Iterator[None]:
    """One server at a time: each takes a thread of the pages for as long as it takes to answer."""
    if not _one_at_a_time.acquire(blocking=False):
        raise VmBusyError(
            phrase("somebody else is adding a repository right now"), hint=phrase("Try again in a minute.")
        )
    try:
        yield
    finally:
        _one_at_a_time.release()
