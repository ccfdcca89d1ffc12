"""What a point's own files say never leads a restore in place, which runs as root, to a file of its choice."""

from pathlib import Path

import pytest

from kvm_backup.domain.errors import DamagedPointError
from kvm_backup.domain.vm import Vm, VmState
from kvm_backup.services.restore_in_place import nvram_place, require_own_xml
from tests.unit.builders import VM_UUID, a_manifest


def xml(name: str = "web", uuid: str = VM_UUID) -> str:
    return f"<domain type='kvm'><name>{name}</name><uuid>{uuid}</uuid><os><nvram>/etc/cron.d/x</nvram></os></domain>"


def test_own_xml_is_taken() -> None:
    require_own_xml(xml(), a_manifest())
    require_own_xml(xml(uuid=VM_UUID.upper()), a_manifest())


@pytest.mark.parametrize(
    "foreign",
    [xml(name="mail"), xml(uuid="1a2b3c4d-0000-4000-8000-000000000002"), xml(uuid="../../../etc/cron.d")],
    ids=["another name", "another UUID", "a path as UUID"],
)
def test_xml_of_another_vm_is_refused(foreign: str) -> None:
    with pytest.raises(DamagedPointError, match="another VM"):
        require_own_xml(foreign, a_manifest())


def test_uefi_variables_go_where_this_host_has_them() -> None:
    vm = Vm("web", VM_UUID, VmState.STOPPED, (), nvram="/srv/web.fd")
    assert nvram_place(a_manifest(), vm) == Path("/srv/web.fd")


@pytest.mark.parametrize("vm", [None, Vm("web", VM_UUID, VmState.STOPPED, ())], ids=["unknown VM", "without UEFI"])
def test_uefi_variables_go_to_libvirts_folder_otherwise(vm: Vm | None) -> None:
    assert nvram_place(a_manifest(), vm) == Path("/var/lib/libvirt/qemu/nvram/web_VARS.fd")
