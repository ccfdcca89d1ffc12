"""What the benchmark does to a VM from outside: writes blocks, and exports its disk as any script could."""

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import libvirt_qemu

from bench.measure import BenchError
from bench.system_image import PIECE
from lab.images import virtual_size
from lab.vm import LabVm

DISK = "vda"
_BLOCK = 4096
"""Guests write whole blocks of their file systems, which do not begin with our clusters."""


def write_scattered(vm: LabVm, pieces: Sequence[Path], seed: int) -> None:
    """Write each piece (1 MiB of real data) somewhere on the disk, no two into one place. Raises BenchError."""
    places = virtual_size(vm.disk(DISK)) // PIECE - 1
    slots = random.Random(seed).sample(range(places), len(pieces))
    device = _device(vm)
    offset = 0
    for slot, piece in zip(slots, pieces, strict=True):
        # A slot is 1 MiB; the shift inside is the same for all, so that none overlaps.
        offset = slot * PIECE + seed * _BLOCK % PIECE
        _monitor(vm, f'qemu-io -d {device} "write -q -s {piece} {offset} {PIECE}"')
    # qemu-io tells of errors on QEMU's own output only.
    if vm.read_blocks(DISK, offset, PIECE) != pieces[-1].read_bytes():
        raise BenchError(f"{vm.name} does not hold what was written to it; its log in libvirt's folder says why")


@contextmanager
def exported(vm: LabVm, folder: Path) -> Iterator[str]:
    """The disk of a running VM at one instant as an NBD URI, by libvirt's backup API in pull mode."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)  # QEMU makes the socket and the scratch file as its own user
    socket, scratch = folder / "socket", folder / "scratch.qcow2"
    vm.domain.backupBegin(
        f"""<domainbackup mode="pull">
              <server transport="unix" socket="{socket}"/>
              <disks><disk name="{DISK}" backup="yes" type="file"><scratch file="{scratch}"/></disk></disks>
            </domainbackup>""",
        None,
    )
    try:
        yield f"nbd+unix:///{DISK}?socket={socket}"
    finally:
        vm.domain.abortJob()
        scratch.unlink(missing_ok=True)
        socket.unlink(missing_ok=True)


def _device(vm: LabVm) -> str:
    """The path of the disk's device in QEMU: bitmaps record what is written there."""
    answer = json.loads(libvirt_qemu.qemuMonitorCommand(vm.domain, '{"execute": "query-block"}', 0))
    for entry in answer["return"]:
        if "virtio" in entry.get("qdev", ""):
            return str(entry["qdev"])
    raise BenchError(f"{vm.name} has no virtio disk")


def _monitor(vm: LabVm, line: str) -> None:
    said = libvirt_qemu.qemuMonitorCommand(vm.domain, line, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
    if said.strip():
        raise BenchError(f"{vm.name}: {line}: {said.strip()}")
