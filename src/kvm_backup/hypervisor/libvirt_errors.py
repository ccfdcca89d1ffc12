"""The one place where libvirt's errors become ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import libvirt

from kvm_backup.domain.errors import (
    CheckpointUnusableError,
    HypervisorError,
    HypervisorUnavailableError,
    KvmBackupError,
    VmBusyError,
    VmNotFoundError,
    VmStateChangedError,
    VmStuckError,
)
from kvm_backup.domain.phrase import phrase

_CONNECTION_CODES = frozenset(
    {
        libvirt.VIR_ERR_NO_CONNECT,
        libvirt.VIR_ERR_INVALID_CONN,
        libvirt.VIR_ERR_RPC,
        libvirt.VIR_ERR_AUTH_FAILED,
        libvirt.VIR_ERR_AUTH_CANCELLED,
        libvirt.VIR_ERR_AUTH_UNAVAILABLE,
    }
)


def silence() -> None:
    """Keep libvirt from printing every error to stderr; they all arrive as exceptions too."""
    libvirt.registerErrorHandler(_ignore, None)


def _ignore(_context: object, _error: object) -> None:
    return


@contextmanager
def translated(vm: str | None = None) -> Iterator[None]:
    """Raise our errors instead of libvirt.libvirtError; `vm` is the name shown to the user."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise our_error(error, vm) from error


def our_error(error: libvirt.libvirtError, vm: str | None = None) -> KvmBackupError:
    """Map libvirt's error (its code and the subsystem it came from) to the class a caller can act on."""
    code = error.get_error_code()
    message = error.get_error_message() or str(error)
    where = f"VM {vm}: " if vm is not None else ""
    if code == libvirt.VIR_ERR_NO_DOMAIN:
        return vm_not_found(vm if vm is not None else "?")
    if is_connection_error(error):
        return HypervisorUnavailableError(
            phrase("{where}libvirt cannot be reached: {message}", where=where, message=message),
            hint=phrase(
                "Check that libvirtd runs (systemctl status libvirtd) and that this user may use it "
                "(root, or a member of group libvirt)."
            ),
            vm=vm,
        )
    if code == libvirt.VIR_ERR_CHECKPOINT_INCONSISTENT:
        return CheckpointUnusableError(
            f"{where}{message}",
            hint=phrase(
                "The next backup must be a full one: QEMU was killed, or a bitmap was removed from the image."
            ),
            vm=vm,
        )
    if code == libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT:
        return CheckpointUnusableError(
            f"{where}{message}", hint=phrase("The checkpoint was deleted; the next backup must be a full one."), vm=vm
        )
    if code == libvirt.VIR_ERR_OPERATION_TIMEOUT or "block job" in message or "backup job is already" in message:
        return VmBusyError(
            f"{where}{message}", hint=phrase("Another operation uses the VM; try again when it has ended."), vm=vm
        )
    if code == libvirt.VIR_ERR_OPERATION_INVALID and "not running" in message:
        return VmStateChangedError(
            f"{where}{message}", hint=phrase("The VM was shut down meanwhile; run the same command again."), vm=vm
        )
    if "Source and target image have different sizes" in message:
        return VmStateChangedError(
            f"{where}{message}",
            hint=phrase("A disk was resized while the backup began; run the same command again."),
            vm=vm,
        )
    if "backup job data missing" in message:
        return VmStuckError(
            phrase(
                "{where}libvirt takes a backup job for running that was lost when libvirtd died ({message})",
                where=where,
                message=message,
            ),
            hint=phrase(
                "The guest works on; neither a backup nor 'virsh domjobabort' does. When the guest may be off for a "
                "moment: shut it down, restart libvirtd, and only then start the guest."
            ),
            vm=vm,
        )
    if "Permission denied" in message:
        return HypervisorError(
            f"{where}{message}",
            hint=phrase(
                "QEMU runs as its own user and may be confined by AppArmor; 'kvm-backup doctor' says what it lacks."
            ),
            vm=vm,
        )
    return HypervisorError(
        f"{where}{message}",
        hint=phrase("libvirt's log (journalctl -u libvirtd) and /var/log/libvirt/qemu/<VM>.log may tell more."),
        vm=vm,
    )


def is_connection_error(error: libvirt.libvirtError) -> bool:
    """Whether it is the connection that broke, rather than an operation that was refused."""
    return error.get_error_code() in _CONNECTION_CODES or error.get_error_domain() in (
        libvirt.VIR_FROM_RPC,
        libvirt.VIR_FROM_REMOTE,
    )


def vm_not_found(name: str) -> VmNotFoundError:
    """The error for a name or UUID that libvirt does not know."""
    return VmNotFoundError(
        phrase("there is no VM named {name!r}", name=name),
        hint=phrase("`kvm-backup vm list` shows the VMs of this host."),
        vm=name,
    )
