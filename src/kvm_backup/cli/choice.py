"""The point that a user named, and help when it is not where they looked."""

import sys
from collections.abc import Callable, Iterable
from functools import partial

from kvm_backup.bootstrap import Application
from kvm_backup.cli.language import _, told
from kvm_backup.cli.output import printable
from kvm_backup.domain.errors import DamagedManifestError, DamagedPointError, KvmBackupError, PointNotFoundError
from kvm_backup.domain.phrase import phrase, sentences
from kvm_backup.domain.point import Manifest
from kvm_backup.domain.shipping import marked_places
from kvm_backup.repository.local import DamagedPoint, LocalRepository
from kvm_backup.repository.lookup import NEWEST, find_point, passed_over, points_of_vm
from kvm_backup.services.stores.store import Store


def choose_point(parts: Application, shelf: Store, reference: str, *, whole_vm: str = "") -> Manifest:
    """As `find_point`, with a hint when only a VM was named, its points lie in another repository, or its latest is
    damaged. What the latest is not, though it is newer, is told on standard error.

    `whole_vm` is what the command at hand also takes for all points of a VM, such as an option.
    """
    store = shelf.view
    vm, _slash, moment = reference.rpartition("/")
    try:
        found = find_point(store, reference, shelf.foreign)
        if moment == NEWEST:
            _tell_passed_over(shelf, found)
        return found
    except (DamagedManifestError, DamagedPointError) as error:
        whole = [point for point in points_of_vm(store, vm) if isinstance(point, Manifest)]
        own = [point.id for point in whole if point.id not in shelf.foreign]
        if moment != NEWEST or not own:
            raise
        older = phrase("The newest one whose manifest can be read: {point}.", point=own[-1])
        raise type(error)(error.message, hint=sentences(older, error.hint), vm=error.vm) from error
    except PointNotFoundError as error:
        vm = vm or reference
        if points_of_vm(store, vm):
            if vm != reference:
                raise
            hint: str = phrase("{vm!r} is a VM. Did you mean {point}?", vm=vm, point=f"{vm}/{NEWEST}")
            if whole_vm:
                hint = sentences(hint, phrase("For all of its points: {words}.", words=f"{whole_vm} {vm}"))
        else:
            hint = elsewhere(parts, store, vm) or error.hint
        raise PointNotFoundError(error.message, hint=hint) from error


def _tell_passed_over(shelf: Store, latest: Manifest) -> None:
    newer = passed_over(shelf.view, latest, shelf.foreign)
    if newer:
        ids = (f"{one.id} ({_('damaged')})" if isinstance(one, DamagedPoint) else one.id for one in newer)
        text = _("passed over, not shipped by this host: {points}; the latest is {point}")
        said = text.format(points=", ".join(ids), point=latest.id)
        sys.stderr.write(f"{_('note:')} {printable(said)}\n")


def elsewhere(parts: Application, store: LocalRepository, vm: str) -> str:
    """A hint that names the other configured repositories which hold points of a VM; empty when none does."""
    found = []
    opened: dict[str, Callable[[], LocalRepository]] = {
        name: partial(LocalRepository.open, name, path) for name, path in parts.settings.repositories().items()
    }
    opened |= {name: partial(_known, parts, name) for name in parts.shipping.remotes}
    for name, open_repository in opened.items():
        try:
            other = open_repository()
            count = 0 if other.root == store.root else len(points_of_vm(other, vm))
        except KvmBackupError:
            continue  # this is a hint; what is wrong with another repository is not asked here
        if count:
            found.append(
                phrase("Repository {name} holds points of it ({count}): add -r {name}.", name=name, count=count)
            )
    return sentences(*found)


def places(parts: Application, names: Iterable[str]) -> str:
    """Names of remotes that hold images, for people."""
    return ", ".join(told(name) for name in marked_places(names, parts.shipping.remotes))


def _known(parts: Application, remote: str) -> LocalRepository:
    return parts.shipping.known(remote).repository
