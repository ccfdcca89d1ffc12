"""No part of a hostile XML that reaches the host passes into a restored VM, and what is harmless stays."""

import xml.etree.ElementTree as ET

import pytest

from kvm_backup.hypervisor.host_parts import added_host_parts
from kvm_backup.hypervisor.restore_xml import as_new_vm, in_place_of_known_vm, in_place_of_unknown_vm

UUID, NEW = "359199de-8a09-489e-851f-c516a4899ab7", "11111111-2222-4333-8444-555555555555"
SAFE = {"/boot/vmlinuz", "/usr/share/OVMF/CODE.fd", "/usr/share/OVMF/VARS.fd"}

HARMLESS = """
  <emulator>/usr/bin/qemu-system-x86_64</emulator>
  <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/i/a'/><target dev='vda'/></disk>
  <interface type='network'><source network='default'/><model type='virtio'/></interface>
  <serial type='pty'><target port='0'/></serial>
  <channel type='unix'><source mode='bind' path='/run/libvirt/qemu/channel/1/a'/><target type='virtio' name='a'/>
  </channel>
  <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
  <input type='tablet' bus='usb'/>
  <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"""

NASTY = {
    "emulator": "<emulator>/tmp/x</emulator>",
    "filesystem": "<filesystem type='mount'><source dir='/STOLEN'/><target dir='r'/></filesystem>",
    "hostdev": "<hostdev mode='subsystem' type='pci'><source><address bus='0xSTOLEN'/></source></hostdev>",
    "serial": "<serial type='file'><source path='/STOLEN'/><target port='1'/></serial>",
    "console": "<console type='dev'><source path='/STOLEN'/></console>",
    "parallel": "<parallel type='pipe'><source path='/STOLEN'/></parallel>",
    "channel": "<channel type='unix'><source mode='connect' path='/run/libvirt/qemu/../../STOLEN'/></channel>",
    "redirdev": "<redirdev bus='usb' type='unix'><source path='/STOLEN'/></redirdev>",
    "serial log": "<serial type='pty'><log file='/STOLEN' append='on'/><target port='2'/></serial>",
    "smartcard": "<smartcard mode='host-certificates'><database>/STOLEN</database></smartcard>",
    "input": "<input type='passthrough' bus='virtio'><source evdev='/STOLEN'/></input>",
    "rng": "<rng model='virtio'><backend model='random'>/STOLEN</backend></rng>",
    "tpm": "<tpm model='tpm-tis'><backend type='passthrough'><device path='/STOLEN'/></backend></tpm>",
    "interface": "<interface type='vhostuser'><source type='unix' path='/STOLEN' mode='client'/></interface>",
    "interface script": "<interface type='ethernet'><script path='/STOLEN'/></interface>",
    "interface backend": "<interface type='network'><source network='n'/><backend tap='/STOLEN'/></interface>",
    "shmem": "<shmem name='STOLEN'><model type='ivshmem-doorbell'/><server path='/STOLEN'/></shmem>",
    "memory": "<memory model='nvdimm'><source><path>/STOLEN</path></source></memory>",
    "audio": "<audio id='1' type='file' path='/STOLEN'/>",
}
NASTY_OUTSIDE = {
    "qemu:commandline": "<qemu:commandline><qemu:arg value='STOLEN'/></qemu:commandline>",
    "qemu:override": "<qemu:override><qemu:device alias='STOLEN'/></qemu:override>",
    "seclabel": "<seclabel type='static' model='dac'><label>STOLEN</label></seclabel>",
    "sysinfo file": "<sysinfo type='fwcfg'><entry name='opt/x' file='/STOLEN'/></sysinfo>",
    "kernel": "<os><type>hvm</type><kernel>/STOLEN</kernel><cmdline>quiet</cmdline></os>",
    "initrd": "<os><type>hvm</type><kernel>/boot/vmlinuz</kernel><initrd>/STOLEN</initrd></os>",
    "loader": "<os><type>hvm</type><loader>/STOLEN</loader></os>",
    "nvram template": "<os><type>hvm</type><loader>/usr/share/OVMF/CODE.fd</loader><nvram template='/STOLEN'/></os>",
    "acpi table": "<os><type>hvm</type><acpi><table type='slic'>/STOLEN</table></acpi></os>",
}


def domain(devices: str = "", outside: str = "") -> str:
    return (
        "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
        f"<name>web</name><uuid>{UUID}</uuid>{outside}<devices>{HARMLESS}{devices}</devices></domain>"
    )


def is_safe(path: str) -> bool:
    return path in SAFE


def new_vm(xml: str) -> tuple[str, tuple[str, ...]]:
    disks = {"vda": ("/new/vda", "qcow2")}
    return as_new_vm(
        xml, name="b", uuid=NEW, new_mac=lambda: "52:54:00:0:0:1", disk_paths=disks, nvram=None, safe_file=is_safe
    )


def attacks() -> list[tuple[str, str]]:
    inside = [(name, domain(devices=part)) for name, part in NASTY.items()]
    return inside + [(name, domain(outside=part)) for name, part in NASTY_OUTSIDE.items()]


EACH = pytest.mark.parametrize(("name", "xml"), attacks(), ids=[*NASTY, *NASTY_OUTSIDE])


@EACH
def test_a_new_vm_does_not_get_it_and_its_name_is_told(name: str, xml: str) -> None:
    made, dropped = new_vm(xml)
    assert "STOLEN" not in made
    assert dropped == (name,)


@EACH
def test_a_vm_that_is_defined_again_does_not_get_it(name: str, xml: str) -> None:
    made, dropped = in_place_of_unknown_vm(xml, {"vda": ("/i/a", "qcow2")}, nvram=None, safe_file=is_safe)
    assert "STOLEN" not in made
    assert dropped == (name,)


@EACH
def test_a_known_vm_that_does_not_have_it_is_not_given_it(name: str, xml: str) -> None:
    assert added_host_parts(xml, domain(), is_safe, restored_disks={"vda"}) == (name,)
    assert added_host_parts(xml, xml, is_safe, restored_disks={"vda"}) == ()


def test_all_at_once_leaves_what_is_harmless() -> None:
    outside = NASTY_OUTSIDE["qemu:commandline"] + NASTY_OUTSIDE["seclabel"] + NASTY_OUTSIDE["sysinfo file"]
    made, dropped = new_vm(domain("".join(NASTY.values()), outside))
    assert "STOLEN" not in made
    assert set(dropped) == {*NASTY, "qemu:commandline", "seclabel", "sysinfo file"}
    devices = ET.fromstring(made).find("devices")
    assert devices is not None
    assert [one.tag for one in devices if one.tag not in ("interface", "serial")] == [
        "disk",
        "channel",
        "channel",
        "input",
        "rng",
        "tpm",
        "console",
    ]
    assert {one.get("type") for one in devices.findall("serial")} == {"pty"}
    assert devices.find("console").get("type") == "pty"  # type: ignore[union-attr]


def test_a_harmless_vm_loses_nothing() -> None:
    booted = "<os><type>hvm</type><kernel>/boot/vmlinuz</kernel><cmdline>quiet</cmdline></os>"
    made, dropped = new_vm(domain(outside=booted))
    assert dropped == ()
    assert ET.fromstring(made).findtext("os/kernel") == "/boot/vmlinuz"


def test_without_its_kernel_a_new_vm_has_no_initrd_or_command_line_that_libvirt_would_refuse() -> None:
    outside = "<os><type>hvm</type><kernel>/gone</kernel><initrd>/boot/vmlinuz</initrd><cmdline>x</cmdline></os>"
    system = ET.fromstring(new_vm(domain(outside=outside))[0]).find("os")
    assert system is not None
    assert [child.tag for child in system] == ["type"]


DISK = "<disk type='block' device='disk'><source dev='/STOLEN'/><target dev='vdz'/></disk>"
MEDIUM = "<disk type='file' device='cdrom'><source file='/STOLEN'/><target dev='sda'/><readonly/></disk>"


def test_a_disk_that_the_point_does_not_hold_is_not_smuggled_in() -> None:
    assert added_host_parts(domain(DISK), domain(), is_safe, restored_disks={"vda"}) == ("disk vdz",)
    assert added_host_parts(domain(DISK), domain(DISK), is_safe, restored_disks={"vda"}) == ()
    made, dropped = in_place_of_unknown_vm(domain(DISK), {"vda": ("/i/a", "raw")}, nvram=None, safe_file=is_safe)
    assert "STOLEN" not in made
    assert dropped == ("disk vdz",)


def test_a_medium_that_is_not_in_the_drive_now_is_taken_out() -> None:
    vda = {"vda": ("/i/a", "qcow2")}
    assert "STOLEN" not in in_place_of_known_vm(domain(MEDIUM), domain(), vda)
    assert "STOLEN" in in_place_of_known_vm(domain(MEDIUM), domain(MEDIUM), vda)
    assert "STOLEN" not in in_place_of_unknown_vm(domain(MEDIUM), vda, nvram=None, safe_file=is_safe)[0]


def test_metadata_of_other_programs_stays() -> None:
    note = "<metadata><l:os xmlns:l='http://libosinfo.org/x' id='debian'/></metadata>"
    made, dropped = new_vm(domain(outside=note))
    assert "debian" in made
    assert dropped == ()
