"""One run at a time on a VM, and one that ships it to a server or fetches it, across processes: flock(2) on a file
of its own.

The lock belongs to the open file description, so the guard process, which inherits it, keeps it until the guest
is clean again even when the run itself was killed.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from kvm_backup.domain.errors import VmBusyError
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository.durable import storage_error
from kvm_backup.repository.patient_lock import locked_within
from kvm_backup.services.control import refuse_when_stopped


@contextmanager
def hold_vm(
    folder: Path, vm_name: str, vm_uuid: str, *, wait: float, stop_requested: Callable[[], bool] = lambda: False
) -> Iterator[int]:
    """Hold the VM's lock; yields the file descriptor.

    Waits at most `wait` seconds, then raises VmBusyError; CancelledError when `stop_requested` says so meanwhile.
    Raises StorageError, NoSpaceError.
    """
    with _hold(folder, f"{vm_uuid}.lock", vm_name, wait, stop_requested) as descriptor:
        yield descriptor


@contextmanager
def hold_shipment(
    folder: Path, remote: str, vm_folder: str, *, wait: float, stop_requested: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Be the only one that ships this VM's folder to that remote. Raises as `hold_vm`.

    It is not the VM's lock: backups go on while bytes move.
    """
    with _hold(folder / "ship", f"{remote}--{vm_folder}.lock", vm_folder, wait, stop_requested):
        yield


@contextmanager
def hold_fetched(
    folder: Path, name: str, vm_folder: str, *, wait: float, stop_requested: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Be the only one that works with what was fetched under that name. Raises as `hold_vm`."""
    with _hold(folder / "fetched", f"{name}.lock", vm_folder, wait, stop_requested):
        yield


@contextmanager
def _hold(folder: Path, file: str, vm_name: str, wait: float, stop_requested: Callable[[], bool]) -> Iterator[int]:
    path = folder / file
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise storage_error(error, path) from error
    try:
        _acquire(descriptor, vm_name, wait, stop_requested)
        _sign(descriptor, path)
        yield descriptor
    finally:
        os.close(descriptor)


def _sign(descriptor: int, path: Path) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        raise storage_error(error, path) from error


def _acquire(descriptor: int, vm_name: str, wait: float, stop_requested: Callable[[], bool]) -> None:
    if locked_within(descriptor, wait, meanwhile=partial(refuse_when_stopped, stop_requested)):
        return
    holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
    raise VmBusyError(
        phrase("another run works on this VM (process {holder})", holder=holder),
        hint=phrase("Wait until it has ended, then try again."),
        vm=vm_name,
    )
