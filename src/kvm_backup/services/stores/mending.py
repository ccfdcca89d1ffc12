"""Points that a check found damaged on a server, or gone: they wait for it again, where they are whole here."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from kvm_backup.domain.errors import DamagedPointError, PointChangedError, PointNotFoundError
from kvm_backup.domain.point import Manifest
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.mirror import Mirror
from kvm_backup.repository.ssh.shipment import Shipment
from kvm_backup.services.verify import Verdict

_OF_ANOTHER_POINT = "parent-"


@dataclass(frozen=True, slots=True)
class Mending:
    """Of one remote. `local` is the repository that it copies; `kept` gives the ids of those points in a VM's folder
    that it should hold."""

    local: LocalRepository
    mirror: Mirror
    kept: Callable[[str], Collection[str]]

    def ask_again(self, damaged: Iterable[Verdict], check: Callable[[], None]) -> list[str]:
        """Have those points wait that can be sent again, and return their ids; all their bytes here are read. `check`
        is called meanwhile, and raises to end it. Raises KvmBackupError.
        """
        found = []
        for verdict in damaged:
            own = [finding for finding in verdict.findings if not finding.kind.startswith(_OF_ANOTHER_POINT)]
            folder = verdict.point.split("/")[0]
            if own and verdict.point in self.kept(folder) and self._is_whole_here(verdict.point, check):
                self.mirror.forget(verdict.point)
                found.append(verdict.point)
        return found

    def _is_whole_here(self, point_id: str, check: Callable[[], None]) -> bool:
        try:
            point = self.local.examine(point_id)
            if not isinstance(point, Manifest) or self.local.elsewhere(point_id) is not None:
                return False
            Shipment(self.local.path_of(point_id), point).check_files(check)
        except (PointNotFoundError, DamagedPointError, PointChangedError):
            return False
        return True
