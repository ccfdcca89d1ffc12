"""The connection to libvirt, and VMs as values."""

import os
import platform
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import libvirt

from kvm_backup.domain.disk import Disk, SourceKind
from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.domain.vm import Vm, VmState
from kvm_backup.hypervisor import domain_xml, safe_xml
from kvm_backup.hypervisor.libvirt_errors import our_error, silence, translated, vm_not_found

DEFAULT_URI = "qemu:///system"

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: VmState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: VmState.RUNNING,
    libvirt.VIR_DOMAIN_SHUTDOWN: VmState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: VmState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: VmState.PAUSED,
    libvirt.VIR_DOMAIN_CRASHED: VmState.CRASHED,
}


@dataclass(frozen=True, slots=True)
class Versions:
    """What runs on the host, as `9.0.0`."""

    libvirt: str
    qemu: str
    host: str


class Hypervisor:
    """A connection to one libvirt daemon. It is opened again by itself after libvirtd was restarted.

    Safe to use from several threads. A VM is named by its name or its UUID in every method.
    """

    def __init__(self, uri: str, connection: Any) -> None:
        self.uri = uri
        self._connection = connection
        self._reopening = threading.Lock()

    @classmethod
    def connect(cls, uri: str = DEFAULT_URI) -> Self:
        """Open a connection. Raises HypervisorUnavailableError."""
        silence()
        return cls(uri, _open(uri))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; may be called twice."""
        with suppress(libvirt.libvirtError):
            self._connection.close()

    def handle(self) -> Any:
        """libvirt's connection object, alive. Raises HypervisorUnavailableError."""
        with self._reopening:
            try:
                # Only a call notices that libvirtd was restarted; isAlive() does not before one failed.
                self._connection.getLibVersion()
            except libvirt.libvirtError:
                self.close()
                self._connection = _open(self.uri)
            return self._connection

    def domain(self, vm: str) -> Any:
        """libvirt's object for a VM, for use inside this package. Raises VmNotFoundError."""
        connection = self.handle()
        with suppress(libvirt.libvirtError):
            if _UUID.fullmatch(vm):
                return connection.lookupByUUIDString(vm)
        try:
            return connection.lookupByName(vm)
        except libvirt.libvirtError as error:
            raise our_error(error, vm) from error
        except (UnicodeError, ValueError, TypeError) as error:
            raise vm_not_found(vm) from error

    def list_vms(self) -> list[Vm]:
        """All VMs, by name; one that vanishes while it is looked at is left out."""
        with translated():
            domains = self.handle().listAllDomains()
        vms = []
        for domain in domains:
            with suppress(libvirt.libvirtError):
                vms.append(_vm(domain))
        return sorted(vms, key=lambda vm: vm.name)

    def states(self) -> dict[str, tuple[str, VmState]]:
        """Name and state of all VMs by UUID, in one call however many there are; their disks are not looked at."""
        with translated():
            reports = self.handle().getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)
            return {
                str(domain.UUIDString()): (str(domain.name()), _STATES.get(held.get("state.state"), VmState.STOPPED))
                for domain, held in reports
            }

    def vm(self, vm: str) -> Vm:
        """A fresh look at one VM, with the sizes of its disks. Raises VmNotFoundError."""
        domain = self.domain(vm)
        with translated(vm):
            return _vm(domain)

    def state(self, vm: str) -> VmState:
        """Raises VmNotFoundError."""
        domain = self.domain(vm)
        with translated(vm):
            return _state(domain)

    def shutting_down(self, vm: str) -> bool:
        """Whether the guest has powered itself off and libvirt has not taken the VM down yet.

        That is a matter of milliseconds, except while a backup job goes on: libvirt 9.0 then waits 30 s for each
        channel of the VM that was closed (it wants a job that a backup does not allow), with all its events.
        """
        domain = self.domain(vm)
        with translated(vm):
            return bool(domain.state()[0] == libvirt.VIR_DOMAIN_SHUTDOWN)

    def instance(self, vm: str) -> int | None:
        """libvirt's id of the running domain, new at each start; None when it is off."""
        domain = self.domain(vm)
        number = int(domain.ID())
        return number if number >= 0 else None

    def xml(self, vm: str) -> str:
        """The XML that a restore needs: the configuration kept for the next start, with its passwords.

        When a disk was plugged into the running VM only, the live configuration is returned instead (in libvirt's
        migratable form), because each saved disk must appear. The text holds secrets: store it with mode 0600.
        """
        domain = self.domain(vm)
        with translated(vm):
            kept = str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE))
            if not domain.isActive():
                return kept
            live = str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_MIGRATABLE))
        return kept if _targets(live) <= _targets(kept) else live

    def live_xml(self, vm: str) -> str:
        """The XML as it is at this moment, with libvirt's runtime details, without passwords."""
        domain = self.domain(vm)
        with translated(vm):
            return str(domain.XMLDesc(0))

    def define(self, xml: str) -> Vm:
        """Define (or redefine) a persistent VM. Raises HypervisorError when libvirt refuses the XML."""
        with translated():
            return _vm(self.handle().defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE))

    def start(self, vm: str) -> None:
        """Start a VM that is off."""
        domain = self.domain(vm)
        with translated(vm):
            domain.create()

    def stop(self, vm: str) -> None:
        """Ask the guest to shut down (returns at once; `power_off` is the hard way)."""
        domain = self.domain(vm)
        with translated(vm):
            domain.shutdown()

    def power_off(self, vm: str) -> None:
        """End QEMU at once, after it has flushed its caches where it still answers."""
        domain = self.domain(vm)
        with translated(vm):
            domain.destroyFlags(libvirt.VIR_DOMAIN_DESTROY_GRACEFUL)

    def undefine(self, vm: str) -> None:
        """Forget a VM that is off, with its checkpoints' and snapshots' metadata; disks and NVRAM stay."""
        domain = self.domain(vm)
        with translated(vm):
            domain.undefineFlags(
                libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
                | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                | libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
            )

    def versions(self) -> Versions:
        """Versions of libvirtd, QEMU and the host, for diagnosis."""
        with translated():
            connection = self.handle()
            return Versions(_dotted(connection.getLibVersion()), _dotted(connection.getVersion()), platform.release())

    def security_models(self) -> frozenset[str]:
        """The names of libvirt's security drivers in use, such as `apparmor` and `dac`."""
        with translated():
            root = safe_xml.parse(str(self.handle().getCapabilities()), root="capabilities")
        return frozenset(filter(None, (safe_xml.text_of(model, "model") for model in root.iterfind("host/secmodel"))))

    def qemu_owner(self, vm: str | None = None) -> tuple[int, int]:
        """uid and gid that QEMU runs as: of this VM when it runs, else the daemon's default.

        From the DAC label in the domain's XML or the capabilities; our own ids where libvirt has no DAC driver
        (a session daemon).
        """
        if vm is not None:
            owner = domain_xml.describe(self.live_xml(vm)).qemu_owner
            if owner is not None:
                return owner
        with translated():
            root = safe_xml.parse(str(self.handle().getCapabilities()), root="capabilities")
        for model in root.iterfind("host/secmodel"):
            if safe_xml.text_of(model, "model") == "dac":
                for label in model.iterfind("baselabel"):
                    owner = domain_xml.parse_dac_label((label.text or "").strip())
                    if owner is not None:
                        return owner
        return os.getuid(), os.getgid()


def _open(uri: str) -> Any:
    with translated():
        return libvirt.open(uri)


def _state(domain: Any) -> VmState:
    state, _reason = domain.state()
    return _STATES.get(state, VmState.STOPPED)


def _vm(domain: Any) -> Vm:
    state = _state(domain)
    described = domain_xml.describe(str(domain.XMLDesc(0)))
    return Vm(
        name=described.name,
        uuid=described.uuid,
        state=state,
        disks=tuple(_measured(domain, disk) for disk in described.disks),
        nvram=described.nvram,
        tpm_state=described.tpm_state,
        clean_shutdown=domain.state() == [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN],
    )


def _measured(domain: Any, disk: Disk) -> Disk:
    if disk.kind is SourceKind.EMPTY:
        return disk
    try:
        capacity, allocation, _physical = domain.blockInfo(disk.target)
    except libvirt.libvirtError:
        # An unreachable source must not hide the other disks; its size stays unknown.
        return disk
    return replace(disk, virtual_size=int(capacity), allocated=int(allocation))


def _targets(xml: str) -> set[str]:
    with suppress(KvmBackupError):
        return {disk.target for disk in domain_xml.describe(xml).disks}
    return set()


def _dotted(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
