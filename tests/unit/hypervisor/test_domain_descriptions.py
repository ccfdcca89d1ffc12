import pytest

from kvm_backup.domain.disk import SourceKind
from kvm_backup.domain.errors import HypervisorError
from kvm_backup.hypervisor import domain_xml
from kvm_backup.hypervisor.domain_xml import Layer

UUID = "359199de-8a09-489e-851f-c516a4899ab7"


def domain(devices: str = "", head: str = "") -> str:
    return f"<domain type='kvm'><name>a &amp; b</name><uuid>{UUID}</uuid>{head}<devices>{devices}</devices></domain>"


def test_every_kind_of_disk_is_recognised() -> None:
    described = domain_xml.describe(
        domain(
            """
            <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/a, b/ü.qcow2'/>
              <target dev='vda' bus='virtio'/></disk>
            <disk type='block'><driver name='qemu'/><source dev='/dev/vg/x'/><target dev='vdb'/><shareable/></disk>
            <disk type='network' device='disk'><driver type='raw'/><source protocol='rbd' name='p/i'/>
              <target dev='vdc'/><readonly/></disk>
            <disk type='volume' device='lun'><source pool='p' volume='v'/><target dev='sdb'/></disk>
            <disk type='file' device='cdrom'><target dev='sda'/><readonly/></disk>
            """
        )
    )
    assert described.name == "a & b"
    found = [(d.target, d.device, d.kind, d.path, d.format, d.read_only, d.shareable) for d in described.disks]
    assert found == [
        ("vda", "disk", SourceKind.FILE, "/a, b/ü.qcow2", "qcow2", False, False),
        ("vdb", "disk", SourceKind.BLOCK, "/dev/vg/x", "raw", False, True),
        ("vdc", "disk", SourceKind.OTHER, None, "raw", True, False),
        ("sdb", "lun", SourceKind.OTHER, None, "raw", False, False),
        ("sda", "cdrom", SourceKind.EMPTY, None, "raw", True, False),
    ]


@pytest.mark.parametrize(
    ("inside", "encrypted"),
    [
        ("<source file='/a'><encryption format='luks'/></source>", True),
        ("<source file='/a'/><encryption format='luks'/>", True),
        ("<source file='/a'/>", False),
    ],
)
def test_a_disk_that_the_host_encrypts_is_recognised(inside: str, encrypted: bool) -> None:
    described = domain_xml.describe(domain(f"<disk type='file'>{inside}<target dev='vda'/></disk>"))
    assert [disk.encrypted for disk in described.disks] == [encrypted]


@pytest.mark.parametrize(
    ("nvram", "path"),
    [
        ("<nvram template='/t.fd'>/v/a.fd</nvram>", "/v/a.fd"),
        ("<nvram type='file'><source file='/v/b.fd'/></nvram>", "/v/b.fd"),
        ("<nvram template='/t.fd'/>", None),
        ("", None),
    ],
)
def test_the_file_of_uefi_variables_is_found_in_both_spellings(nvram: str, path: str | None) -> None:
    assert domain_xml.describe(domain(head=f"<os>{nvram}</os>")).nvram == path


@pytest.mark.parametrize(
    ("backend", "folder"),
    [
        ("<backend type='emulator' version='2.0'/>", f"/var/lib/libvirt/swtpm/{UUID}/tpm2"),
        ("<backend type='emulator' version='1.2'/>", f"/var/lib/libvirt/swtpm/{UUID}/tpm1.2"),
        ("<backend type='passthrough'><device path='/dev/tpm0'/></backend>", None),
    ],
)
def test_only_an_emulated_tpm_has_state_on_the_host(backend: str, folder: str | None) -> None:
    assert domain_xml.describe(domain(f"<tpm>{backend}</tpm>")).tpm_state == folder


def test_the_layers_of_a_running_disk_carry_their_node_numbers_top_first() -> None:
    xml = domain(
        """<disk type='file'><source file='/top' index='7'/><backingStore type='block' index='3'>
           <format type='qcow2'/><source dev='/dev/base'/><backingStore/></backingStore><target dev='vda'/></disk>"""
    )
    assert domain_xml.layers(xml) == {"vda": (Layer(7, "/top"), Layer(3, "/dev/base"))}


@pytest.mark.parametrize(
    ("label", "owner"), [("+64055:+108", (64055, 108)), ("qemu:qemu", None), ("+1", None), ("+x:+y", None)]
)
def test_a_dac_label_gives_numbers_only_when_it_holds_them(label: str, owner: tuple[int, int] | None) -> None:
    assert domain_xml.parse_dac_label(label) == owner


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no xml",
        "<domain>",
        "<network/>",
        "<domain/>",
        "<domain><name>a</name></domain>",
        '<!DOCTYPE domain [<!ENTITY a "aaaa">]><domain><name>&a;</name></domain>',
        '<!DOCTYPE domain SYSTEM "file:///etc/passwd"><domain/>',
        "<domain><name>\0</name></domain>",
    ],
)
def test_what_is_no_domain_xml_is_refused(text: str) -> None:
    with pytest.raises(HypervisorError):
        domain_xml.describe(text)


def test_a_document_type_is_refused_before_its_entities_are_expanded() -> None:
    levels = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE domain [<!ENTITY l0 "x">{levels}]><domain><name>&l11;</name></domain>'
    with pytest.raises(HypervisorError, match="document type"):
        domain_xml.describe(bomb)
