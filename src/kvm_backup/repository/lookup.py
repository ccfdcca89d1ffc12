"""From what a person types to one restore point."""

import re
from collections.abc import Container

from kvm_backup.domain.errors import PointNotFoundError
from kvm_backup.domain.names import FOLDER_PATTERN, is_uuid, safe_name
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Manifest
from kvm_backup.repository.local import DamagedPoint, LocalRepository

NEWEST = "latest"
_HINT = phrase("See the ids with 'kvm-backup point list'; a part of the id is enough when only one point has it.")


def find_point(repository: LocalRepository, reference: str, foreign: Container[str] = frozenset()) -> Manifest:
    """The point that `reference` names: a whole id, VM/STAMP, VM/latest, or a beginning of a stamp.

    VM is the VM's name, its UUID or its folder. `foreign` are ids of points of which nobody knows who made them: none
    of them is the latest, nor meant by what fits another point, too. Raises PointNotFoundError (none, or several),
    and the error of a point that is there but damaged.
    """
    vm, _, moment = reference.rpartition("/")
    candidates = points_of_vm(repository, vm) if vm else list(repository.all_points())
    own = [point for point in candidates if point.id not in foreign]
    if moment == NEWEST:
        matches = _newest_of_each_vm(own) if vm else []
    else:
        matches = _beginning_with(moment, own) or _beginning_with(moment, candidates)
    if not matches and moment == NEWEST and vm and candidates:
        raise PointNotFoundError(
            phrase(
                "repository {repository} holds no point of {vm} that this host has shipped",
                repository=repository.name,
                vm=vm,
            ),
            hint=phrase("Whoever may write there may have put them there. If you trust one, give its whole id."),
        )
    if not matches:
        raise PointNotFoundError(
            phrase(
                "no restore point in repository {repository} matches {reference!r}",
                repository=repository.name,
                reference=reference,
            ),
            hint=_HINT,
        )
    if len(matches) > 1:
        raise PointNotFoundError(
            phrase(
                "{count} restore points in repository {repository} match {reference!r}: {ids}",
                count=len(matches),
                repository=repository.name,
                reference=reference,
                ids=", ".join(point.id for point in matches[:3]) + (", …" if len(matches) > 3 else ""),
            ),
            hint=_HINT,
        )
    match = matches[0]
    if isinstance(match, DamagedPoint):
        raise match.error
    return match


def passed_over(
    repository: LocalRepository, latest: Manifest, foreign: Container[str]
) -> list[Manifest | DamagedPoint]:
    """The points that are newer than what VM/latest means, and are none of this host's own; oldest first."""
    folder = repository.path_of(latest.id).parent
    newer = [f"{folder.name}/{stamp}" for stamp in repository.stamps(folder)]
    return [repository.examine(point_id) for point_id in newer if point_id > latest.id and point_id in foreign]


def _beginning_with(moment: str, points: list[Manifest | DamagedPoint]) -> list[Manifest | DamagedPoint]:
    return [point for point in points if point.id.split("/")[1].startswith(moment)] if moment else []


def points_of_vm(repository: LocalRepository, vm: str) -> list[Manifest | DamagedPoint]:
    """The points of one VM, oldest first; `vm` is its name, its UUID or its folder."""
    return [point for point in repository.all_points() if _is_of_vm(point, vm)]


def folders_of_vm(repository: LocalRepository, vm: str) -> list[str]:
    """The names of the folders with points of a VM; `vm` is its folder or UUID, or a name, for which all are read."""
    if re.fullmatch(FOLDER_PATTERN, vm) and (repository.root / vm).is_dir():
        return [vm]
    if is_uuid(vm):
        folder = repository.folder_of(vm.lower())
        return [] if folder is None else [folder.name]
    return sorted({point.id.split("/")[0] for point in points_of_vm(repository, vm)})


def _is_of_vm(point: Manifest | DamagedPoint, vm: str) -> bool:
    folder = point.id.split("/")[0]
    if vm == folder:
        return True
    if isinstance(point, Manifest):
        return vm in (point.vm_name, point.vm_uuid)
    # Of a point that cannot be read, only the folder tells whose it is.
    name, _, uuid = folder.rpartition("--")
    return name == safe_name(vm) or vm.startswith(uuid)


def _newest_of_each_vm(points: list[Manifest | DamagedPoint]) -> list[Manifest | DamagedPoint]:
    """Several when VMs had the same name at different times, or one was renamed and another took its name."""
    return list({point.id.split("/")[0]: point for point in points}.values())
