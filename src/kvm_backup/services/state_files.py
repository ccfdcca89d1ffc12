"""What belongs to a VM besides its disks: XML, UEFI variables, the state of an emulated TPM."""

import io
import tarfile
from pathlib import Path

from kvm_backup.domain.errors import DamagedPointError, StorageError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import DOMAIN_XML_FILE, NVRAM_FILE, TPM_FILE, StoredFile
from kvm_backup.domain.vm import Vm
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.repository import durable

_LIMIT = 256 * 1024 * 1024


def store_state_files(hypervisor: Hypervisor, vm: Vm, folder: Path) -> tuple[StoredFile, ...]:
    """Write them into the folder of a point. Raises StorageError when one cannot be read or written.

    NVRAM that does not exist yet (the VM never ran) is left out; libvirt makes it from its template.
    """
    contents = {DOMAIN_XML_FILE: hypervisor.xml(vm.uuid).encode()}
    if vm.nvram is not None and Path(vm.nvram).exists():
        contents[NVRAM_FILE] = _read(Path(vm.nvram))
    if vm.tpm_state is not None and Path(vm.tpm_state).is_dir():
        contents[TPM_FILE] = _packed(Path(vm.tpm_state))
    return tuple(
        StoredFile(name=name, bytes=len(content), sha256=durable.write_new(folder / name, content))
        for name, content in contents.items()
    )


def _packed(folder: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
                content = _read(path)
                member = tarfile.TarInfo(path.name)
                member.size, member.mode = len(content), 0o600
                archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _read(path: Path) -> bytes:
    try:
        content = durable.read_limited(path, _LIMIT)
    except DamagedPointError as error:
        raise StorageError(
            phrase("{path} vanished while it was read", path=path),
            hint=phrase("Check the VM's firmware files and run the backup again."),
        ) from error
    if len(content) > _LIMIT:
        raise StorageError(
            phrase("{path} is larger than {limit} bytes", path=path, limit=_LIMIT),
            hint=phrase("That is no firmware state; check the path."),
        )
    return content
