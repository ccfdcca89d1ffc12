"""VMs whose images need not all stay here, or are here again, and whose last pass over them (keep_local) did not end:
another run held the VM, a server did not answer, the process died. An empty file in a mirror's folder,
`.unsettled/<VM's folder>`, says so.
"""

from pathlib import Path

from kvm_backup.repository.durable import storage_error

_FOLDER = ".unsettled"


class Unsettled:
    """In the folder of a mirror."""

    def __init__(self, mirror: Path) -> None:
        self._root = mirror / _FOLDER

    def holds(self, vm_folder: str) -> bool:
        """Whether a pass over that VM's images is to be made again."""
        return (self._root / vm_folder).exists()

    def note(self, vm_folder: str) -> None:
        """A pass begins. Raises StorageError, NoSpaceError."""
        mark = self._root / vm_folder
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            mark.touch(mode=0o600)
        except OSError as error:
            raise storage_error(error, mark) from error

    def forget(self, vm_folder: str) -> None:
        """It came to its end; one that is not noted is no error. Raises StorageError."""
        mark = self._root / vm_folder
        try:
            mark.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, mark) from error
