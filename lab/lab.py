"""The lab itself: makes VMs and removes every trace of them at its end."""

import itertools
import os
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

import libvirt

from lab.disks import DiskSpec, attach_loop_device, make_image
from lab.domain_xml import PlacedDisk, VmSpec, domain_xml, free_target
from lab.errors import LabError
from lab.guest.image import guest_image
from lab.host import connect, running_libvirtd
from lab.leftovers import KEPT, PREFIX, Owner, remove_domain, remove_lab
from lab.paths import WORK_FOLDER
from lab.vm import LabVm

_numbers = itertools.count(1)


class Lab:
    """A context manager: everything made in it is gone behind it, also after an exception.

    `prefix` starts the names of all its VMs and of `folder`, where images go and where QEMU's user may enter. The
    VMs are emulated in software unless KVM_BACKUP_LAB_VIRT_TYPE says kvm: /dev/kvm is not to be trusted
    everywhere. With `keep`, VMs stay behind until `remove` is called or somebody cleans.
    """

    def __init__(self, *, keep: str | None = None) -> None:
        owner = Owner.of_process(os.getpid())
        assert owner is not None
        own = f"{PREFIX}{owner.pid}-{owner.started}-{next(_numbers)}-"
        if keep is not None and not keep.isalnum():
            raise LabError(f"{keep!r} is no name for a VM of the lab: only letters and digits")
        self._keep = keep is not None
        self.prefix = own if keep is None else f"{KEPT}{keep}-"
        self.folder = WORK_FOLDER / f"{self.prefix}files"
        self._virt_type = os.environ.get("KVM_BACKUP_LAB_VIRT_TYPE", "qemu")
        self._connection: libvirt.virConnect | None = None
        self._adopted: list[str] = []

    def __enter__(self) -> Self:
        running_libvirtd()
        self.folder.mkdir(mode=0o711, exist_ok=self._keep)
        self.folder.chmod(0o711)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._keep:
            self.remove()

    def remove(self) -> None:
        """Remove every VM, loop device and file of this lab, and every VM that it adopted."""
        connection = self.connection()
        for uuid in self._adopted:
            try:
                remove_domain(connection.lookupByUUIDString(uuid))
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                    raise
        remove_lab(connection, self.prefix)

    def connection(self) -> libvirt.virConnect:
        """A connection to libvirt that answers; a new one when libvirtd was restarted."""
        if self._connection is not None:
            try:
                self._connection.getLibVersion()
            except libvirt.libvirtError:
                self._connection = None
        if self._connection is None:
            self._connection = connect()
        return self._connection

    def find_domain(self, uuid: str) -> libvirt.virDomain:
        """libvirt's object for the VM of this UUID. Raises libvirt.libvirtError when there is none."""
        return self.connection().lookupByUUIDString(uuid)

    def full_name(self, name: str) -> str:
        """`name` with the lab's prefix: a VM of such a name is removed at the end, whoever defined it."""
        return self.prefix + name

    def create_vm(
        self,
        name: str,
        disks: Sequence[DiskSpec] | None = None,
        *,
        start: bool = True,
        guest: bool = True,
        agent: bool | None = None,
        uefi: bool = False,
        tpm: bool = False,
        memory_mib: int = 256,
        network: bool = False,
    ) -> LabVm:
        """Make a VM, by default with one disk of 64 MiB, and (with `start`) start it without waiting for its guest.

        With guest=False there is only the firmware, which takes no time to start: for tests that write with
        write_blocks. `agent` gives it the agent's port, by default when there is a guest. Raises LabError.
        """
        full = self.full_name(name)
        taken: set[str] = set()
        placed: list[PlacedDisk] = []
        for spec in [DiskSpec()] if disks is None else disks:
            disk = self.place_disk(full, spec, taken, with_guest=guest and not placed)
            taken.add(disk.target)
            placed.append(disk)
        vm_spec = VmSpec(
            name=full,
            disks=tuple(placed),
            guest=guest_image() if guest else None,
            agent=guest if agent is None else agent,
            uefi=uefi,
            tpm=tpm,
            memory_mib=memory_mib,
            network=network,
            virt_type=self._virt_type,
        )
        domain = self.connection().defineXML(domain_xml(vm_spec))
        vm = LabVm(self, domain.UUIDString())
        if start:
            vm.start()
        return vm

    def find_vm(self, name: str) -> LabVm:
        """The VM of this lab that create_vm made under `name`. Raises libvirt.libvirtError when there is none."""
        return LabVm(self, self.connection().lookupByName(self.full_name(name)).UUIDString())

    def adopt(self, name: str) -> LabVm:
        """A VM of this full name that something else defined (a restored one); it is removed with the lab."""
        uuid = self.connection().lookupByName(name).UUIDString()
        self._adopted.append(uuid)
        return LabVm(self, uuid)

    def place_disk(self, vm_name: str, spec: DiskSpec, taken: set[str], *, with_guest: bool) -> PlacedDisk:
        """Make what is behind a disk, under a target that is not in `taken`.

        `with_guest` gives it the file system that the guest mounts on /data. Raises LabError.
        """
        target = free_target(spec, taken)
        if target in taken:
            raise LabError(f"{vm_name} has two disks {target}")
        if spec.image is not None:
            return PlacedDisk(spec, target, spec.image)
        path = self.folder / f"{vm_name.removeprefix(self.prefix)}-{target}.{spec.image_format}"
        if with_guest and spec.files is None:
            spec = replace(spec, files={})
        make_image(spec, path, label="lab" if with_guest else target)
        return PlacedDisk(spec, target, attach_loop_device(path) if spec.block_device else path)
