"""From what a person types to one restore point."""

from kvm_backup.domain.errors import PointNotFoundError
from kvm_backup.domain.point import Manifest
from kvm_backup.repository.local import DamagedPoint, LocalRepository

NEWEST = "latest"
_HINT = "See the ids with 'kvm-backup point list'; a part of the id is enough when only one point has it."


def find_point(repository: LocalRepository, reference: str) -> Manifest:
    """The point that `reference` names: a whole id, VM/STAMP, VM/latest, or a beginning of a stamp.

    VM is the VM's name, its UUID or its folder. Raises PointNotFoundError (none, or several), and the error of a
    point that is there but damaged.
    """
    vm, _, moment = reference.rpartition("/")
    candidates = points_of_vm(repository, vm) if vm else list(repository.all_points())
    if moment == NEWEST:
        matches = sorted(candidates, key=lambda point: point.id.split("/")[1])[-1:] if vm else []
    else:
        matches = [point for point in candidates if point.id.split("/")[1].startswith(moment)] if moment else []
    if len(matches) != 1:
        what = "no restore point" if not matches else f"{len(matches)} restore points"
        raise PointNotFoundError(f"{what} in repository {repository.name} match {reference!r}", hint=_HINT)
    match = matches[0]
    if isinstance(match, DamagedPoint):
        raise match.error
    return match


def points_of_vm(repository: LocalRepository, vm: str) -> list[Manifest | DamagedPoint]:
    """The points of one VM, oldest first; `vm` is its name, its UUID or its folder."""
    found: list[Manifest | DamagedPoint] = []
    for folder in repository.folders():
        if vm == folder.name or folder.name.startswith(f"{vm}--"):
            found += repository.points(folder)
        else:
            found += [point for point in repository.points(folder) if _is_of_vm(point, vm)]
    return found


def _is_of_vm(point: Manifest | DamagedPoint, vm: str) -> bool:
    return isinstance(point, Manifest) and vm in (point.vm_name, point.vm_uuid)
