"""What doctor says of a repository on another server: access, folder, room, keys. Changes nothing there."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.phrase import Phrase, phrase
from kvm_backup.domain.sizes import show_size
from kvm_backup.repository.ssh.account import Account
from kvm_backup.repository.ssh.remote import Remote
from kvm_backup.services.checks import Check, Health
from kvm_backup.services.remotes.joining import another_folder, join_to_read

_AT_ONCE = 8
_OLDEST_RSYNC = (3, 2, 4)
_ROOM = 1 << 30
"""Bytes that should be free on a server beside what waits."""


@dataclass(frozen=True, slots=True)
class Copied:
    """The local repository that a remote copies. `identity` gives a folder with the kvm-backup.json that the copy
    has; `waiting` are the bytes that wait to be shipped."""

    name: str
    id: str
    identity: Callable[[], AbstractContextManager[Path]]
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Examined:
    """A remote as the settings have it. `connect` logs in within a short time, and ends what takes too long.

    `copied` is None for one that is only read, of which `known_id` is what was there when it was last read.
    `prunes_by` is the address of the account that prunes, where it is another. `check_keys` gets whether the points
    there are encrypted, None: that is not known, and tells of the keys for them; None where there is nothing to tell.
    `others` are checks that need no server.
    """

    name: str
    connect: Callable[[], Remote]
    copied: Copied | None
    known_id: str | None
    prunes_by: str | None
    rsync_here: str | None
    check_keys: Callable[[bool | None], Check | None]
    others: Sequence[Check] = ()


def titled(remote: str, what: str) -> Phrase:
    """The name of a check."""
    return phrase("remote {name}, {what}", name=remote, what=what)


def examine(remotes: Sequence[Examined]) -> Iterator[Check]:
    """All checks of all remotes, in their order; several servers are asked at once."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for checks in pool.map(_checks_of, remotes):
            yield from checks


def _checks_of(remote: Examined) -> list[Check]:
    return list(_Examination(remote).checks())


@dataclass(frozen=True, slots=True)
class _Examination:
    remote: Examined

    def checks(self) -> Iterator[Check]:
        encrypted: bool | None = None
        try:
            with self.remote.connect() as there:
                yield self._login(there)
                yield from self._trying(phrase("folder"), lambda: self._folder(there))
                yield from self._trying(phrase("rsync"), lambda: self._rsync(there))
                yield from self._trying(phrase("space"), lambda: self._space(there))
                if self.remote.prunes_by is not None and self.remote.copied is not None:
                    yield from self._trying("prune_url", lambda: self._prune_url(there))
                encrypted = self._is_encrypted(there)
        except KvmBackupError as error:
            yield self._problem(phrase("login"), error)
        yield from self._trying(phrase("keys"), lambda: self.remote.check_keys(encrypted))
        yield from self.remote.others

    def _trying(self, what: str, look: Callable[[], Check | None]) -> Iterator[Check]:
        try:
            if (found := look()) is not None:
                yield found
        except KvmBackupError as error:
            yield self._problem(what, error)

    def _login(self, there: Remote) -> Check:
        return self._well(
            phrase("login"),
            phrase("{place}: the host key is known; {account}", place=there.address, account=self._account(there)),
        )

    def _account(self, there: Remote) -> Phrase:
        if there.account is Account.SHELL:
            return phrase("the account has a shell")
        if there.only_adds:
            return phrase("the account can only add points")
        return phrase("the account has rsync alone")

    def _folder(self, there: Remote) -> Check:
        copied = self.remote.copied
        if copied is not None:
            with copied.identity() as root:
                there.check_copies(root)
            return self._well(phrase("folder"), phrase("it is the copy of repository {name}", name=copied.name))
        found = join_to_read(there).repository_id
        if self.remote.known_id is None:
            return Check(
                titled(self.remote.name, phrase("folder")),
                Health.WARNING,
                phrase("it holds a repository that was never read"),
                phrase("Read it: kvm-backup repository rescan {name}", name=self.remote.name),
            )
        if found != self.remote.known_id:
            return Check(
                titled(self.remote.name, phrase("folder")),
                Health.PROBLEM,
                phrase("it holds another repository than when it was last read"),
                phrase(
                    "A disk of its own may need mounting there. Else read it anew: "
                    "kvm-backup repository rescan {name}",
                    name=self.remote.name,
                ),
            )
        return self._well(phrase("folder"), phrase("it is the repository that was last read"))

    def _rsync(self, there: Remote) -> Check | None:
        facts, here = there.server_facts, self.remote.rsync_here
        if facts is None or facts.rsync is None or here is None:
            return None
        told = phrase("{there} there, {here} here", there=facts.rsync, here=here)
        if min(_numbers(facts.rsync), _numbers(here)) >= _OLDEST_RSYNC:
            return self._well(phrase("rsync"), told)
        return Check(
            titled(self.remote.name, phrase("rsync")),
            Health.WARNING,
            told,
            phrase("Install rsync 3.2.4 or newer on both sides."),
        )

    def _space(self, there: Remote) -> Check | None:
        facts = there.server_facts
        if facts is None or facts.free is None or facts.total is None:
            return None
        told = phrase("{free} of {total} free", free=show_size(facts.free), total=show_size(facts.total))
        waiting = self.remote.copied.waiting if self.remote.copied else 0
        if facts.free >= waiting + min(_ROOM, facts.total // 20):
            return self._well(phrase("space"), told)
        return Check(
            titled(self.remote.name, phrase("space")),
            Health.PROBLEM if facts.free < waiting else Health.WARNING,
            phrase("{told}, and {waiting} wait to be shipped", told=told, waiting=show_size(waiting)),
            phrase("Free space on that server, or keep less there: [repository.retention] in the settings."),
        )

    def _prune_url(self, there: Remote) -> Check:
        assert self.remote.copied is not None
        if there.identity() != self.remote.copied.id:
            raise another_folder(self.remote.prunes_by)
        if there.may_remove():
            return self._well("prune_url", phrase("{place}: it may read and remove", place=self.remote.prunes_by))
        return Check(
            titled(self.remote.name, "prune_url"),
            Health.PROBLEM,
            phrase("{place}: the account may not remove", place=self.remote.prunes_by),
            phrase("It needs a shell, or rrsync without -ro, -no-del and -no-overwrite."),
        )

    @staticmethod
    def _is_encrypted(there: Remote) -> bool | None:
        try:
            return there.is_encrypted
        except KvmBackupError:
            return None  # told with the folder, or the account may not read

    def _well(self, what: str, detail: str) -> Check:
        return Check(titled(self.remote.name, what), Health.OK, detail)

    def _problem(self, what: str, error: KvmBackupError) -> Check:
        return Check(titled(self.remote.name, what), Health.PROBLEM, error.message, error.hint)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
