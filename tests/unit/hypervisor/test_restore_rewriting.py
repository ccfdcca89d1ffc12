import itertools
import os
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvm_backup.domain.errors import BadArgumentError
from kvm_backup.hypervisor.restore_xml import (
    MAX_NAME_BYTES,
    as_new_vm,
    check_vm_name,
    in_place_of_known_vm,
    new_macs,
)

LONGEST = MAX_NAME_BYTES // 2
"""Characters of two bytes each."""

OLD, NEW = "359199de-8a09-489e-851f-c516a4899ab7", "11111111-2222-4333-8444-555555555555"

LIVE = f"""<domain type='kvm' id='7' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web</name><uuid>{OLD}</uuid><genid>{OLD}</genid><memory unit='KiB'>32768</memory>
  <sysinfo type='smbios'><system><entry name='uuid'>{OLD}</entry><entry name='serial'>S1</entry></system></sysinfo>
  <os><type>hvm</type><loader type='pflash'>/code.fd</loader><nvram template='/vars.fd'>/nvram/web.fd</nvram></os>
  <devices>
    <disk type='network' device='disk'><driver name='qemu' type='luks' cache='none'/><auth username='u'/>
      <source protocol='rbd' name='p/i' index='3'><encryption format='luks'/></source>
      <backingStore type='file' index='4'><source file='/base'/></backingStore>
      <mirror type='file' file='/m'/><target dev='vda' bus='virtio'/><serial>D1</serial>
      <alias name='virtio-disk0'/><address type='pci' slot='0x03'/></disk>
    <disk type='file' device='disk'><source file='/left-out.qcow2'/><target dev='vdb' bus='virtio'/></disk>
    <disk type='block' device='cdrom'><driver name='qemu' type='raw'/><source dev='/dev/sr0'/><target dev='sda'/>
      <readonly/></disk>
    <interface type='bridge'><mac address='52:54:00:aa:aa:aa'/><source network='n' portid='{OLD}' bridge='br0'/>
      <virtualport type='openvswitch'><parameters interfaceid='{OLD}' profileid='p'/></virtualport>
      <target dev='vnet3'/><model type='virtio'/><alias name='net0'/></interface>
    <interface type='network'><source network='m'/><alias name='ua-mine'/></interface>
    <serial type='pty'><source path='/dev/pts/4'/><target port='0'/></serial>
    <console type='pty' tty='/dev/pts/4'><source path='/dev/pts/4'/><target port='0'/></console>
    <channel type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/channel/target/domain-7-web/org'/>
      <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>
    <graphics type='vnc' port='5900' autoport='no' listen='127.0.0.1'/>
    <vsock model='virtio'><cid auto='no' address='3'/></vsock>
  </devices>
  <seclabel type='dynamic' model='dac'><label>+1:+1</label><imagelabel>+1:+1</imagelabel></seclabel>
  <qemu:commandline><qemu:arg value='-S'/></qemu:commandline>
</domain>"""


@pytest.fixture
def copy() -> ET.Element:
    macs = (f"52:54:00:00:00:{number:02x}" for number in itertools.count(1))
    text, _ = as_new_vm(
        LIVE,
        name="web <2> & co",
        uuid=NEW,
        new_mac=lambda: next(macs),
        disk_paths={"vda": ("/new/v'd,a.qcow2", "qcow2")},
        nvram="/nvram/copy.fd",
        safe_file=lambda path: True,
    )
    return ET.fromstring(text)


def test_the_copy_has_its_own_identity(copy: ET.Element) -> None:
    assert copy.findtext("name") == "web <2> & co"
    assert copy.findtext("uuid") == NEW
    assert copy.find("sysinfo/system/entry[@name='uuid']").text == NEW  # type: ignore[union-attr]
    assert copy.find("sysinfo/system/entry[@name='serial']").text == "S1"  # type: ignore[union-attr]
    assert [one.get("address") for one in copy.iterfind("devices/interface/mac")] == [
        "52:54:00:00:00:01",
        "52:54:00:00:00:02",
    ]
    assert copy.findtext("os/nvram") == "/nvram/copy.fd"
    assert "id" not in copy.attrib
    assert OLD not in ET.tostring(copy, encoding="unicode")


def test_a_restored_disk_is_a_plain_file_and_keeps_what_the_guest_sees(copy: ET.Element) -> None:
    disk = copy.find("devices/disk")
    assert disk is not None
    assert disk.attrib == {"type": "file", "device": "disk"}
    assert [child.tag for child in disk] == ["driver", "source", "target", "serial", "address"]
    assert disk.find("source").attrib == {"file": "/new/v'd,a.qcow2"}  # type: ignore[union-attr]
    assert disk.find("driver").attrib == {"name": "qemu", "type": "qcow2", "cache": "none"}  # type: ignore[union-attr]


def test_disks_that_are_not_restored_are_dropped_and_drives_emptied(copy: ET.Element) -> None:
    assert [one.get("dev") for one in copy.iterfind("devices/disk/target")] == ["vda", "sda"]
    drive = copy.findall("devices/disk")[1]
    assert drive.get("type") == "file"
    assert drive.find("source") is None


def test_nothing_of_the_hosts_side_is_shared_with_the_original(copy: ET.Element) -> None:
    text = ET.tostring(copy, encoding="unicode")
    for trace in ("vnet3", "portid", "/dev/pts", "domain-7", "5900", "net0", "virtio-disk0", "+1:+1"):
        assert trace not in text
    assert "ua-mine" in text
    assert copy.find("devices/vsock/cid").attrib == {"auto": "yes"}  # type: ignore[union-attr]
    assert copy.find("devices/graphics").get("autoport") == "yes"  # type: ignore[union-attr]


def test_without_saved_variables_the_copy_does_not_use_the_originals() -> None:
    text, _ = as_new_vm(
        LIVE, name="b", uuid=NEW, new_mac=lambda: "x", disk_paths={}, nvram=None, safe_file=lambda path: True
    )
    nvram = ET.fromstring(text).find("os/nvram")
    assert nvram is not None
    assert (nvram.text, nvram.get("template")) == (None, "/vars.fd")


def test_in_place_only_the_named_disks_change() -> None:
    root = ET.fromstring(in_place_of_known_vm(LIVE, LIVE, {"vdb": ("/kept/vdb.raw", "raw")}))
    assert root.findtext("uuid") == OLD
    sources = {
        disk.find("target").get("dev"): disk.find("source").attrib  # type: ignore[union-attr]
        for disk in root.iterfind("devices/disk")
    }
    assert sources == {
        "vda": {"protocol": "rbd", "name": "p/i", "index": "3"},
        "vdb": {"file": "/kept/vdb.raw"},
        "sda": {"dev": "/dev/sr0"},
    }
    assert root.findtext("os/nvram") == "/nvram/web.fd"


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a/b",
        "a\nb",
        "a\0b",
        " a",
        "a ",
        "a\t",
        "..",
        ".",
        "\u2028",
        "\ud800",
        "é" * (MAX_NAME_BYTES // 2 + 1),
    ],
)
def test_a_name_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(BadArgumentError):
        check_vm_name(name)


@pytest.mark.parametrize("name", ["a", "-a", "a b", "été <&>", "'\"$", "x" * MAX_NAME_BYTES, "é" * LONGEST])
def test_an_odd_name_that_can_be_is_accepted(name: str) -> None:
    check_vm_name(name)


@given(st.integers(min_value=0, max_value=200))
def test_new_macs_are_distinct_unicast_addresses_of_qemu(count: int) -> None:
    new_mac = new_macs(os.urandom)
    macs = [new_mac() for _ in range(count)]
    assert len(set(macs)) == count
    assert all(mac.startswith("52:54:00:") and len(mac) == 17 for mac in macs)


def test_a_source_of_bytes_that_repeats_itself_does_not_give_the_same_mac_twice() -> None:
    new_mac = new_macs(bytes)
    assert new_mac() == "52:54:00:00:00:00"
    with pytest.raises(BadArgumentError):
        new_mac()
