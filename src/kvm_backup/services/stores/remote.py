"""A repository on another server, read by way of what this host knows of it and what is fetched from there."""

from collections.abc import Callable, Container, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from kvm_backup.domain.errors import RepositoryFormatError, RepositoryNotFoundError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import MANIFEST_FILE, Manifest
from kvm_backup.engine.copy import CopyControl, NoControl
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.repository.local import DamagedPoint, LocalRepository
from kvm_backup.repository.mirror import Mirror
from kvm_backup.repository.ssh.remote import Remote
from kvm_backup.repository.ssh.transfer import Watch
from kvm_backup.services import events
from kvm_backup.services.control import SpaceWatch, refuse_when_stopped
from kvm_backup.services.stores.check_there import check_there
from kvm_backup.services.stores.fetch import FetchedPoint, FetchWatch, needed_for, size_of
from kvm_backup.services.stores.fetched import FetchedFolders
from kvm_backup.services.stores.mending import Mending
from kvm_backup.services.stores.store import Errand, Points
from kvm_backup.services.verify import Finding, Verdict, verify_points


@dataclass(frozen=True, slots=True)
class RemoteStore:
    """Reads from one server. `address` is for people; `connect` makes a connection that is watched; `space_reserve`
    is in bytes; `mending` is None where this host ships nothing there."""

    mirror: Mirror
    address: str
    connect: Callable[[Watch], Remote]
    folders: FetchedFolders
    space_reserve: int
    mending: Mending | None = None
    far: bool = True

    @property
    def view(self) -> LocalRepository:
        return self.mirror.repository

    @property
    def read(self) -> datetime | None:
        return self.mirror.read

    @property
    def foreign(self) -> Container[str]:
        return self.mirror.unvouched()

    def place_of(self, point_id: str) -> str:
        self.view.path_of(point_id)
        return f"{self.address.rstrip('/')}/{point_id}"

    @contextmanager
    def holding(self, point: Manifest, errand: Errand) -> Iterator[LocalRepository]:
        """Fetch what restoring the point reads, each file checked. What is here from an earlier try is not fetched
        again, and when that is all nobody is asked.

        Raises BrokenChainError, DamagedPointError for files that are damaged there, PointChangedError when they are
        others since they were last read, NoSpaceError, VmBusyError, CancelledError, StorageError,
        RepositoryNotFoundError and RepositoryFormatError when another disk is mounted there, and what `Remote`
        raises.
        """
        needed = needed_for(self.view.chain(point))
        with self.folders.hold(self.mirror, _folder_of(point), errand) as fetched:
            self._fetch(needed, fetched, errand)
            yield fetched

    def verify(
        self, points: Points, errand: Errand, *, hypervisor: Callable[[], Hypervisor], deep: bool
    ) -> Iterator[Verdict]:
        """A verdict on each point. Where an account there has a shell and `deep` is not asked for, digests are
        computed there, of encrypted points as far as this host sent them; else one point after the other is fetched.
        Raises as `holding`.
        """
        unreadable = [point for point in points if isinstance(point, DamagedPoint)]
        yield from verify_points(self.view, unreadable, hypervisor=hypervisor, deep=deep, control=NoControl())
        known = [point for point in points if isinstance(point, Manifest)]
        left = known if deep or not known else (yield from self._verify_there(known, errand))
        if left:
            yield from self._verify_fetched(left, errand, hypervisor, deep)

    def mend(self, damaged: Sequence[Verdict], errand: Errand) -> list[str]:
        """Those that are whole in the local repository wait to be shipped again. Raises KvmBackupError."""
        if self.mending is None or not damaged:
            return []
        return self.mending.ask_again(damaged, lambda: refuse_when_stopped(errand.stop_requested))

    def _verify_there(
        self, points: Sequence[Manifest], errand: Errand
    ) -> Generator[Verdict, None, Sequence[Manifest]]:
        """Returns those of which that could not be done."""
        control = errand.control(events.Step.VERIFY, sum(size_of(point) for point in points))
        with self.connect(FetchWatch(control.check)) as remote:
            self._require_same(remote)
            left = yield from check_there(remote, self.mirror, points, self.address, control)
        if len(left) < len(points):
            control.finish()
        return left

    def _verify_fetched(
        self, points: Sequence[Manifest], errand: Errand, hypervisor: Callable[[], Hypervisor], deep: bool
    ) -> Iterator[Verdict]:
        # Each byte is fetched, checked, and for a deep verify decompressed.
        total = sum(size_of(point) for point in points) * (3 if deep else 2)
        with self.folders.hold(self.mirror, _folder_of(points[0]), errand) as fetched:
            space = self._space(fetched)
            control = errand.control(events.Step.VERIFY, total, space)
            watch = FetchWatch(control.check, control.advance)
            with self.connect(watch) as remote:
                self._require_same(remote)
                for point in points:
                    one = self._point(point, fetched)
                    missing = one.missing(_Silent(control))
                    space.check(missing + (missing if remote.is_encrypted else 0))
                    watch.begin(size_of(point))
                    one.fetch(remote, _Silent(control))
                    watch.finish()
                    manifest = fetched.examine(point.id)
                    for verdict in verify_points(fetched, [point], hypervisor=hypervisor, deep=deep, control=control):
                        yield self._as_there(verdict, fetched, manifest)
                    one.remove_files()
            control.finish()

    def _as_there(self, verdict: Verdict, fetched: LocalRepository, manifest: Manifest | DamagedPoint) -> Verdict:
        """What was found in the fetched files, told of those on the server; `manifest` is the one there."""
        here, there = str(fetched.root), self.address.rstrip("/")
        found = [replace(one, message=one.message.replace(here, there)) for one in verdict.findings]
        if isinstance(manifest, DamagedPoint):
            message = manifest.error.message.replace(here, there)
            found.append(Finding(verdict.point, MANIFEST_FILE, manifest.error.code, message))
        return replace(verdict, findings=tuple(found))

    def _fetch(self, needed: Sequence[Manifest], fetched: LocalRepository, errand: Errand) -> None:
        errand.listener(events.StepStarted(errand.vm, events.Step.FETCH))
        points = [self._point(point, fetched) for point in needed]
        total = sum(size_of(point) for point in needed)
        space = self._space(fetched)
        control = errand.control(events.Step.FETCH, total, space)
        missing = {one.point.id: one.missing(_Silent(control)) for one in points}
        space.check(sum(missing.values()))
        if any(missing.values()):
            watch = FetchWatch(control.check, control.advance)
            with self.connect(watch) as remote:
                self._require_same(remote)
                if remote.is_encrypted:
                    # A point's files lie here twice until the last of them is decrypted.
                    space.check(sum(missing.values()) + max(missing.values()))
                for one in points:
                    watch.begin(size_of(one.point))
                    if missing[one.point.id]:
                        one.require(one.fetch(remote, _Silent(control)))
                    watch.finish()
        else:
            control.advance(total)
        control.finish()

    def _point(self, point: Manifest, fetched: LocalRepository) -> FetchedPoint:
        return FetchedPoint(point, fetched, self.mirror, self.address)

    def _space(self, fetched: LocalRepository) -> SpaceWatch:
        return SpaceWatch(phrase("fetched points"), fetched.root, self.space_reserve)

    def _require_same(self, remote: Remote) -> None:
        """Raises when another disk is mounted there, or none."""
        there = remote.identity()
        if there is None:
            raise RepositoryNotFoundError(
                phrase("{place} holds no repository now", place=self.address),
                hint=phrase("A disk of its own may need mounting there."),
            )
        if there != self.view.id:
            raise RepositoryFormatError(
                phrase(
                    "{place} holds the points of another repository than when it was last read", place=self.address
                ),
                hint=phrase("Read it anew: kvm-backup repository rescan {name}", name=self.view.name),
            )


class _Silent:
    """Checks as another control does, and counts nothing: digests of what came are no progress of their own."""

    def __init__(self, control: CopyControl) -> None:
        self.check = control.check

    def advance(self, done: int) -> None:
        """Nothing to do."""


def _folder_of(point: Manifest) -> str:
    return point.id.split("/")[0]
