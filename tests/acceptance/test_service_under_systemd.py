"""The service as `install-service` puts it under a real systemd, in a container of its own."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.booted_systemd import UNIT, Container, booted
from tests.acceptance.service import until
from tests.integration.product import COMMAND

ROOT = Path(__file__).parents[2]
STATE = "/var/lib/kvm-backup"
HASTY = "[Service]\nWatchdogSec=7\nTimeoutAbortSec=1\nRestartSec=100ms\n"
"""As quick as can be with a service that shows each five seconds that it lives."""
CONFINED = """
[Service]
ExecStartPost=/bin/sh /root/probe
StandardOutput=file:/root/answers
StandardError=journal
"""
PROBE = """
try() { name=$1; shift; if "$@" >/dev/null 2>&1; then echo "$name: yes"; else echo "$name: no"; fi; }
try 'write where disks of VMs are' touch /var/lib/disk
try 'make a repository' mkdir /repository
try "write to root's home" touch /root/known_hosts
try 'mount' mount -t tmpfs probe /repository
try 'become another user' setpriv --reuid=65534 --regid=65534 --clear-groups true
try 'connect by TCP' python3 -c 'import socket; socket.socket(socket.AF_INET6)'
try 'copy with rsync' rsync --archive /etc/machine-id /root/copy
try 'write in /etc' touch /etc/probe
try 'make a user namespace' unshare --user true
try 'trace a process' python3 -c 'import ctypes, os; os._exit(0 if ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0 else 1)'
"""
MAY = {
    "write where disks of VMs are",
    "make a repository",
    "write to root's home",
    "mount",
    "become another user",
    "connect by TCP",
    "copy with rsync",
}
MAY_NOT = {"write in /etc", "make a user namespace", "trace a process"}


@pytest.fixture(scope="module")
def systemd() -> Iterator[Container]:
    places = {ROOT, Path(sys.prefix), Path(sys.base_prefix)}
    with booted([path for path in places if not path.is_relative_to("/usr")]) as made:
        made.run(COMMAND, "install-service").succeeded()
        yield made


@pytest.fixture
def container(systemd: Container) -> Iterator[Container]:
    """With the service installed and not started, and with nothing that an earlier one left."""
    systemd.drop_in("")
    yield systemd
    systemd.systemctl("stop", UNIT)
    systemd.run("systemctl", "reset-failed", UNIT)
    systemd.run("rm", "-rf", STATE).succeeded()


def test_it_counts_as_started_only_when_it_serves(container: Container) -> None:
    container.run("mkdir", STATE).succeeded()
    with container.start("flock", f"{STATE}/kvm-backup.db.lock", "sh", "-c", "echo held; cat") as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        container.systemctl("start", "--no-block", UNIT)
        until(lambda: waits_for_a_lock(container), "wait for its database")
        assert container.property("ActiveState") == "activating"
        holder.communicate()
    container.systemctl("start", UNIT)
    assert container.property("ActiveState") == "active"
    assert container.property("StatusText").endswith("no run going on")


def test_one_that_hangs_is_killed_and_started_anew(container: Container) -> None:
    container.drop_in(HASTY)
    container.systemctl("start", UNIT)
    hanging = container.property("MainPID")
    container.run("kill", "-STOP", hanging).succeeded()
    until(lambda: container.property("NRestarts") == "1", "be restarted", pause=0.2)
    container.systemctl("start", UNIT)
    assert container.property("MainPID") != hanging
    assert "Watchdog timeout" in container.run("journalctl", f"--unit={UNIT}").stdout


def test_stopped_it_ends_in_order(container: Container) -> None:
    container.systemctl("start", UNIT)
    container.systemctl("stop", UNIT)
    assert container.said()[-1] == "ended"
    told = container.run("journalctl", f"--unit={UNIT}", "--output=cat", "--lines=5").stdout
    assert f"{UNIT}: Deactivated successfully." in told


def test_it_may_do_what_backups_and_scripts_need_and_no_more(container: Container) -> None:
    container.run("sh", "-c", "cat > /root/probe", stdin=PROBE).succeeded()
    unconfined = answers(container.run("sh", "/root/probe").stdout)
    assert (set(unconfined), set(unconfined.values())) == (MAY | MAY_NOT, {"yes"})
    container.run("sh", "-c", "umount /repository && rmdir /repository").succeeded()
    container.drop_in(CONFINED)
    container.systemctl("start", UNIT)
    confined = answers(container.run("cat", "/root/answers").stdout)
    assert {name for name, answer in confined.items() if answer == "yes"} == MAY


def answers(text: str) -> dict[str, str]:
    """What the probe said of each thing that it tried."""
    return dict(line.split(": ") for line in text.splitlines())


def waits_for_a_lock(container: Container) -> bool:
    """Whether the service's process stands in flock(2)."""
    found = container.run("cat", f"/proc/{container.property('MainPID')}/wchan").stdout
    return "flock" in found or "lock" in found
