"""What the demo leaves on the host, and how the next demo finds and removes it."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import libvirt

from lab.errors import LabError
from lab.lab import Lab
from lab.leftovers import remove_domain
from lab.paths import WORK_FOLDER, cache_folder

STATE = WORK_FOLDER / "kvm-backup-demo"
"""The state folder of the demo's kvm-backup: its repository stays there until the next demo."""
SETTINGS = STATE / "kvm-backup.toml"
"""The demo's own settings file, which is empty: those of the host must not reach into the demo."""
RESTORED_DISKS = STATE / "restored"
VM = "lab-demo"
RESTORED_VM = "lab-demo-restored"

_SPACE_NEEDED = 3 << 30
_WAIT_SECONDS = 60.0


@contextmanager
def only_demo() -> Iterator[int]:
    """Hold the lock that lets one demo run at a time; yields its descriptor.

    Programs that inherit the descriptor hold the lock too: what a killed demo had started is waited for.
    Raises LabError when another demo does not end within a minute.
    """
    descriptor = os.open(cache_folder() / "demo.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LabError("another demo is running; start this one when that has ended") from None
                time.sleep(0.2)
        yield descriptor
    finally:
        os.close(descriptor)


def demo_lab() -> Lab:
    """The lab that the demo's VM is made in; its VM and folder outlive the process until they are removed."""
    return Lab(keep="demo")


def remove_vms(lab: Lab) -> list[str]:
    """Remove the demo's VMs and their disks, those of an earlier demo too; the names of the VMs.

    A VM is the demo's when its name and its description both say so: another's VM of that name is left alone.
    """
    removed = []
    for domain in lab.connection().listAllDomains():
        name = domain.name()
        if (name == VM or name.startswith(f"{VM}-")) and _is_of_the_lab(domain):
            remove_domain(domain)
            removed.append(name)
    lab.remove()
    if not STATE.is_symlink():
        shutil.rmtree(RESTORED_DISKS, ignore_errors=True)
    return removed


def remove_all(lab: Lab) -> list[str]:
    """Remove VMs, disks and repository; what was removed. Raises LabError."""
    removed = remove_vms(lab)
    if STATE.is_symlink():
        raise LabError(f"{STATE} is a link that the demo did not make; remove it first")
    if STATE.exists():
        shutil.rmtree(STATE)
        removed.append(str(STATE))
    return removed


def make_state() -> None:
    """Make the state folder, which QEMU's user must be able to pass through, with an empty settings file."""
    STATE.mkdir(mode=0o711)
    STATE.chmod(0o711)
    SETTINGS.touch()


def check_host(lab: Lab) -> None:
    """Raise LabError unless the demo's disks and points fit and its VMs' names are free."""
    for domain in lab.connection().listAllDomains():
        if domain.name() in (VM, RESTORED_VM):
            raise LabError(f"a VM called {domain.name()} exists, which the demo did not make; rename it first")
    free = shutil.disk_usage(WORK_FOLDER).free
    if free < _SPACE_NEEDED:
        raise LabError(f"the demo needs {_SPACE_NEEDED >> 30} GiB in {WORK_FOLDER}, and {free >> 20} MiB are free")


def host_files(folder: Path, limit: int) -> dict[str, bytes]:
    """Files of this host below `folder`, about `limit` bytes of them: data that a real VM holds too."""
    found: dict[str, bytes] = {}
    total = 0
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file() or not 64 << 10 <= path.stat().st_size <= limit // 8:
            continue
        found[f"files/{path.relative_to(folder)}"] = content = path.read_bytes()
        total += len(content)
        if total >= limit:
            break
    return found


def _is_of_the_lab(domain: libvirt.virDomain) -> bool:
    try:
        description = domain.metadata(libvirt.VIR_DOMAIN_METADATA_DESCRIPTION, None)
    except libvirt.libvirtError:
        return False
    return bool(description == "A test VM of the KVM Backup lab")
