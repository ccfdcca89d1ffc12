"""libvirt on this host: connects, starts it where it is not running, restarts it for fault tests."""

import grp
import os
import shutil
import signal
import time
from pathlib import Path

import libvirt

from lab.errors import LabError
from lab.programs import run

URI = "qemu:///system"
_PID_FILE = Path("/run/libvirt/libvirtd.pid")
_START = Path(__file__).parents[1] / "scripts" / "start-libvirt"
_START_SECONDS = 30.0


def connect() -> libvirt.virConnect:
    """A connection to the system's libvirt. Raises libvirt.libvirtError when nothing answers."""
    # Without a handler the binding prints every error on stderr, expected or not.
    libvirt.registerErrorHandler(_say_nothing, None)
    return libvirt.open(URI)


def running_libvirtd() -> None:
    """Make sure that libvirtd and virtlogd run, with or without systemd; to start them needs root. LabError."""
    _give_kvm_to_its_group()
    if not _answers():
        run([_START])


def restart_libvirtd() -> None:
    """End libvirtd and start it again, as an upgrade of its package does; VMs go on running. Raises LabError.

    Every connection to it breaks. Only for tests that run alone: see lab.locks.turn.
    """
    if _systemd_runs():
        run(["systemctl", "restart", "libvirtd.service"])
    else:
        pid = int(_PID_FILE.read_text())
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _START_SECONDS
        while Path(f"/proc/{pid}").exists():
            if time.monotonic() > deadline:
                raise LabError(f"libvirtd (process {pid}) did not end within {_START_SECONDS:.0f} s")
            time.sleep(0.05)
        run([_START])
    _wait_until_it_answers()


def _give_kvm_to_its_group() -> None:
    """Do for /dev/kvm what udev does, where no udev runs.

    libvirtd asks QEMU as root what the host can do, and then looks whether QEMU's user may open /dev/kvm. When only
    root may, it takes its answer for outdated, and asks QEMU again in every call: half a minute to define a VM.
    """
    device = Path("/dev/kvm")
    if os.geteuid() != 0 or _systemd_runs() or not device.exists():
        return
    try:
        group = grp.getgrnam("kvm").gr_gid
    except KeyError:
        return
    if device.stat().st_gid != group:
        shutil.chown(device, group=group)
        device.chmod(0o660)


def _answers() -> bool:
    try:
        connect().close()
    except libvirt.libvirtError:
        return False
    return True


def _wait_until_it_answers() -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _answers():
        if time.monotonic() > deadline:
            raise LabError(f"libvirtd does not answer on {URI} {_START_SECONDS:.0f} s after its start")
        time.sleep(0.1)


def _systemd_runs() -> bool:
    return Path("/run/systemd/system").is_dir()


def _say_nothing(_context: object, _error: object) -> None:
    return
