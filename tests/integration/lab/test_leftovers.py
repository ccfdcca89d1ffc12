"""Nothing of a lab stays behind, however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab import DiskSpec, Lab, LabVm
from lab.disks import MIB, loop_devices_below
from lab.host import connect
from lab.leftovers import Owner, clean
from lab.mounts import mounts_below
from lab.paths import WORK_FOLDER

pytestmark = pytest.mark.vm

BIG_MESS = """
import os, signal, subprocess
from lab import DiskSpec, Lab
with Lab() as lab:
    disks = [DiskSpec(size=1 << 20), DiskSpec(size=1 << 20, image_format="raw", block_device=True)]
    lab.create_vm("left", disks, guest=False, uefi=True)
    (lab.folder / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "lab", lab.folder / "small"], check=True)
    print(lab.prefix, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def traces(prefix: str) -> list[str]:
    found = [domain.name() for domain in connect().listAllDomains() if domain.name().startswith(prefix)]
    found += [str(path) for path in WORK_FOLDER.glob(f"{prefix}*")]
    found += [str(path) for path in Path("/var/lib/libvirt/qemu/nvram").glob(f"{prefix}*")]
    found += [str(device) for device in loop_devices_below(WORK_FOLDER / f"{prefix}files")]
    return found + [str(place) for place in mounts_below(WORK_FOLDER / f"{prefix}files")]


def with_metadata(lab: Lab) -> LabVm:
    """A VM with all that libvirt refuses to undefine by itself."""
    disks = [DiskSpec(size=MIB), DiskSpec(size=MIB, image_format="raw", block_device=True)]
    vm = lab.create_vm("messy", disks, guest=False, uefi=True, tpm=True)
    vm.domain.checkpointCreateXML(
        "<domaincheckpoint><name>one</name><disks><disk name='vda'/>"
        "<disk name='vdb' checkpoint='no'/></disks></domaincheckpoint>"
    )
    vm.domain.snapshotCreateXML(
        "<domainsnapshot><name>two</name><disks><disk name='vda' snapshot='external'/>"
        "<disk name='vdb' snapshot='no'/></disks></domainsnapshot>",
        16,  # VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    )
    return vm


def test_ended_lab_leaves_nothing() -> None:
    with Lab() as lab:
        with_metadata(lab)
        assert len(traces(lab.prefix)) == 4
    assert traces(lab.prefix) == []


def test_lab_that_ends_with_an_exception_leaves_nothing() -> None:
    with pytest.raises(ZeroDivisionError), Lab() as lab:  # noqa: PT012
        lab.create_vm("broken", guest=False)
        raise ZeroDivisionError
    assert traces(lab.prefix) == []


def test_lab_whose_qemu_was_killed_leaves_nothing() -> None:
    with Lab() as lab:
        vm = with_metadata(lab)
        vm.kill_qemu()
        assert vm.state == "shut off"
    assert traces(lab.prefix) == []


def test_lab_of_a_killed_process_is_cleaned_and_that_of_a_living_one_is_not(lab: Lab) -> None:
    living = lab.create_vm("living", guest=False)
    done = subprocess.run([sys.executable, "-c", BIG_MESS], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    prefix = done.stdout.strip()
    assert len(traces(prefix)) == 5
    clean(connect())
    assert traces(prefix) == []
    assert living.state == "running"


def test_process_id_that_is_used_again_does_not_pass_for_the_owner() -> None:
    me = Owner.of_process(os.getpid())
    assert me is not None
    assert me.alive
    assert not Owner(me.pid, me.started + 1).alive


@pytest.mark.parametrize("name", ["web", "lab-keep-web-vm", "lab-1-x-2-vm", "lab-12"])
def test_name_that_tells_no_owner_is_never_cleaned(name: str) -> None:
    assert Owner.of_name(name) is None


def test_adopted_vm_goes_with_the_lab() -> None:
    with Lab() as lab:
        original = lab.create_vm("original", guest=False)
        xml = original.domain.XMLDesc().replace(original.name, "adopted-" + original.name)
        xml = xml.replace(original.uuid, "0" * 8 + original.uuid[8:])
        original.destroy()
        lab.connection().defineXML(xml)
        lab.adopt("adopted-" + original.name)
    names = [domain.name() for domain in connect().listAllDomains()]
    assert "adopted-" + lab.prefix + "original" not in names
