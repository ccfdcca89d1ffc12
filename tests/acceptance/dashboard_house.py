"""The real service with its dashboard, on the real libvirtd, with VMs of the lab, for tests in a browser."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page

from kvm_backup.domain.account import Role
from lab import DiskSpec, Lab, LabVm
from lab.disks import MIB
from tests.acceptance.service import DATA, SLOW, busy_vm
from tests.unit.web.dashboard import PASSWORD, Dashboard, running

LIBVIRT = "qemu:///system"


@dataclass
class House:
    """A dashboard that runs. `small` is backed up at once; to copy `large` takes seconds."""

    lab: Lab
    dashboard: Dashboard
    small: LabVm
    large: LabVm

    @property
    def repository(self) -> Path:
        """The folder of the default repository."""
        return self.dashboard.state / "repository"

    def points(self, vm: LabVm) -> list[Path]:
        """The folders of the VM's points, oldest first."""
        return sorted(self.repository.glob(f"*--{vm.uuid[:8]}/2*"))

    def user(self, name: str, role: Role = Role.ADMINISTRATOR) -> str:
        """Somebody with the password PASSWORD."""
        return self.dashboard.application.accounts.add(name, role, PASSWORD).name


@contextmanager
def house(lab: Lab) -> Iterator[House]:
    """Two VMs, and then the service, so that its first look finds both."""
    small = small_vm(lab, "petite")
    large = busy_vm(lab, "grande", 4 * DATA)
    state = lab.folder / "state"
    # QEMU's user must be able to pass.
    state.mkdir(mode=0o711)
    state.chmod(0o711)
    (lab.folder / "kvm-backup.toml").write_text(SLOW)
    with running(Dashboard(state, {"KVM_BACKUP_LIBVIRT__URI": LIBVIRT})) as dashboard:
        yield House(lab, dashboard, small, large)


def small_vm(lab: Lab, name: str) -> LabVm:
    """A running VM with a little random data on a disk of 8 MiB."""
    image = lab.folder / f"{name}.raw"
    image.write_bytes(os.urandom(MIB) + bytes(7 * MIB))
    image.chmod(0o666)
    return lab.create_vm(name, [DiskSpec(image=image, image_format="raw")], guest=False)


def show(page: Page, path: str) -> Page:
    """The page of that path, live: what changes from now on is seen."""
    page.goto(path)
    page.locator("#live-state.live").wait_for()
    return page
