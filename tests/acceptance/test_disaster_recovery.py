"""The pages of the READMEs for somebody whose host is gone, carried out as they are written.

Only names are others: the VM's, the server's address, and folders that another test may use as well.
"""

import os
import pty
import re
import shutil
import stat
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab import DiskSpec, Lab, LabVm, compare_images
from lab.disks import MIB
from tests.integration.product import COMMAND, Product
from tests.integration.ship.servers import Server

ROOT = Path(__file__).parents[2]
IMAGES = Path("/var/lib/libvirt/images")
FOLDER, STAMP = "web--6841d747", "20261122T100039Z"


def commands_of(document: str, heading: str) -> list[str]:
    """What the code blocks of a section tell to type, without comments."""
    text = (ROOT / document).read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


COMMANDS = commands_of("README.md", "Disaster recovery")


def test_both_languages_tell_the_same_commands_in_the_same_order() -> None:
    assert commands_of("README.fr.md", "Reprise après sinistre") == COMMANDS
    assert len(COMMANDS) > 10


@dataclass
class Machine:
    """A host that knows nothing: a state folder, settings and a home of its own, and what is typed there.

    `sudo` and `ssh` are found before the real ones, for the tester is root and the server needs its keys; so is
    `editor`, which does to the XML what a person would.
    """

    folder: Path
    server: Server
    names: dict[str, str]
    product: Product = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(mode=0o711)
        self.product = Product(self.folder / "product", variables={"KVM_BACKUP_SSH_CONFIG": str(self.server.config)})
        programs = self.folder / "bin"
        programs.mkdir()
        self.program(programs / "sudo", 'exec "$@"')
        self.program(programs / "ssh", f'exec /usr/bin/ssh -F {self.server.config} "$@"')
        (programs / "kvm-backup").symlink_to(COMMAND)
        self.environment = self.product.environment | {"PATH": f"{programs}:{os.environ['PATH']}"}

    @staticmethod
    def program(path: Path, script: str) -> None:
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def edits_disk_paths(self, old: str, new: str) -> None:
        self.program(self.folder / "bin" / "editor", f'sed -i "s#{old}#{new}#" "$1"')

    def types(self, command: str) -> str:
        """Type one command at a terminal, answering yes to what it asks; what it said, when it went well."""
        for written, name in self.names.items():
            command = command.replace(written, name)
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            ["bash", "-c", command], stdin=theirs, stdout=theirs, stderr=theirs, env=self.environment
        ) as process:
            os.close(theirs)
            said = b""
            try:
                while piece := _read(ours):
                    said += piece
                    if said.rstrip().endswith(b"[y/N]:"):
                        os.write(ours, b"y\n")
            finally:
                os.close(ours)
        told = said.decode(errors="replace").replace("\r\n", "\n")
        assert process.returncode == 0, f"{command}\n{told}"
        return told


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""  # nobody has the other end open any more


@dataclass
class Lost:
    """A host that is gone: what its VM was, and what was on its disk at the newest point."""

    vm_name: str
    xml_disk: str
    witness: Path
    point: str


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "server") as made:
        yield made


def lose_a_host(lab: Lab, server: Server) -> Lost:
    """Back a VM up, twice, ship it, and lose everything of the host but what is on the server."""
    vm = lab.create_vm("lost", [DiskSpec()], guest=False)
    product = Product(lab.folder / "product", variables={"KVM_BACKUP_SSH_CONFIG": str(server.config)})
    product.run("repository", "add", "nas", str(server.address()), "--yes").succeeded()
    vm.write_blocks("vda", 0, 2 * MIB, 0x11)
    product.run("backup", vm.name).succeeded()
    vm.write_blocks("vda", MIB, 4 * MIB, 0x22)
    product.run("backup", vm.name).succeeded()
    newest = product.points(vm.name)[-1]
    assert newest["mode"] == "incremental"
    vm.destroy()
    witness = lab.folder / "witness.qcow2"
    disk = vm.disk("vda")
    disk.rename(witness)
    lost = Lost(vm.name, str(disk), witness, str(newest["id"]))
    for checkpoint in vm.domain.listAllCheckpoints():
        checkpoint.delete(2)  # VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY
    vm.domain.undefine()
    shutil.rmtree(product.state)
    return lost


def forget(vm: LabVm) -> None:
    """Take a VM away with its disk, as on yet another machine."""
    disk = vm.disk("vda")
    if vm.state != "shut off":
        vm.destroy()
    vm.domain.undefine()
    disk.unlink()


@pytest.mark.vm
def test_the_page_brings_a_vm_back_on_a_machine_that_has_nothing_but_the_servers_address(
    lab: Lab, server: Server
) -> None:
    lost = lose_a_host(lab, server)
    folder, stamp = lost.point.split("/")
    here = lab.folder / "images"
    here.mkdir(mode=0o755)
    machine = Machine(
        lab.folder / "machine",
        server,
        {
            "/var/tmp/": f"{lab.folder}/",
            "kvm-backup@nas.example:/srv/kvm-backup/alpha": f"shell:{server.store}",
            "kvm-backup@nas.example/srv/kvm-backup/alpha": f"shell{server.store}",
            "kvm-backup@nas.example/srv/kvm-backup/beta": f"shell{server.store.with_name('beta')}",
            "kvm-backup@nas.example": "shell",
            "/srv/kvm-backup/alpha": str(server.store),
            "web-test": f"{lost.vm_name}-test",
            FOLDER: folder,
            STAMP: stamp,
            "/root/web.xml": str(lab.folder / "web.xml"),
            str(IMAGES): str(here),
            "web/latest": f"{lost.vm_name}/latest",
            "start web": f"start {lost.vm_name}",
        },
    )
    by_hand = here / "web.qcow2"
    machine.edits_disk_paths(lost.xml_disk, str(by_hand))
    said: dict[str, str] = {}
    for command in COMMANDS:
        if command.startswith("rsync "):
            # What follows is another way to do the same, on a machine that did not do the former.
            forget(lab.adopt(lost.vm_name))
        said[command] = machine.types(command)
        if command == "sudo virsh start web":
            back = lab.adopt(lost.vm_name)
            assert back.state == "running"
            compare_images(back.disk("vda"), lost.witness)
    beside = lab.adopt(f"{lost.vm_name}-test")
    compare_images(beside.disk("vda"), lost.witness)
    beside.disk("vda").unlink()
    again = lab.adopt(lost.vm_name)
    assert (again.state, again.disk("vda")) == ("running", by_hand)
    again.destroy()
    compare_images(by_hand, lost.witness)
    assert [told.count("[y/N]") for command, told in said.items() if "--in-place" in command] == [1]
    assert folder in said["sudo ssh kvm-backup@nas.example ls /srv/kvm-backup/alpha"]
    listed = said["sudo kvm-backup point list --repository nas"]
    assert [lost.point in listed, "As it was last read" in listed] == [True, True]
    # Nothing of what was fetched stays, and nothing was shipped from here.
    assert list((machine.product.state / "scratch" / "fetched").iterdir()) == []
    there, copy = tomllib.loads(machine.product.settings.read_text())["repository"]
    assert (there["name"], "of" in there) == ("nas", False)
    assert (copy["name"], copy["of"]) == ("nas-beta", "default")
