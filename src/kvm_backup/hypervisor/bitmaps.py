"""Dirty bitmaps as they really are, in a running QEMU or in the image files of a stopped VM.

libvirt's checkpoints are only a list of names: after a crash of QEMU, or when someone works on the images, the
bitmaps behind them are gone or broken. Tried with QEMU 7.2: a bitmap that was not saved is shown as
`inconsistent` by the next QEMU and as `in-use` by qemu-img; one that was created since the last start is missing
altogether. In a chain of layers (after an external snapshot) every layer holds its own part under the same name,
and the changes are the union of the parts; the top layer's part must exist.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import libvirt_qemu

from kvm_backup.domain.disk import SourceKind
from kvm_backup.domain.errors import HypervisorError, ToolFailedError, UnsupportedDiskError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.vm import Vm
from kvm_backup.hypervisor import domain_xml, image
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.hypervisor.libvirt_errors import translated


class BitmapFault(StrEnum):
    """Why a bitmap cannot tell what changed."""

    INCONSISTENT = "inconsistent"
    """It was not saved when QEMU ended."""
    NOT_RECORDING = "not-recording"
    NOT_PERSISTENT = "not-persistent"
    NOT_IN_TOP_LAYER = "not-in-top-layer"
    """Nothing recorded the writes since the top layer was made."""
    INTERRUPTED = "interrupted"
    """A layer between two that hold it does not."""


@dataclass(frozen=True, slots=True)
class BitmapPart:
    """What one layer holds of a bitmap. Granularity in bytes."""

    granularity: int
    recording: bool
    persistent: bool
    inconsistent: bool
    busy: bool = False


@dataclass(frozen=True, slots=True)
class BitmapState:
    """A bitmap of one disk over all its layers. `layers` are their positions, 0 the top; `parts` go with them."""

    name: str
    layers: tuple[int, ...]
    parts: tuple[BitmapPart, ...]

    @property
    def fault(self) -> BitmapFault | None:
        """Why it is unusable, None when an incremental can start from it."""
        if any(part.inconsistent for part in self.parts):
            return BitmapFault.INCONSISTENT
        if not self.layers or self.layers[0] != 0:
            return BitmapFault.NOT_IN_TOP_LAYER
        if self.layers != tuple(range(len(self.layers))):
            return BitmapFault.INTERRUPTED
        if not all(part.recording for part in self.parts):
            return BitmapFault.NOT_RECORDING
        if not all(part.persistent for part in self.parts):
            return BitmapFault.NOT_PERSISTENT
        return None

    @property
    def only_in_top_layer(self) -> bool:
        """Whether qemu-nbd can export it: that program knows the top layer's bitmaps only."""
        return self.layers == (0,)


def bitmaps(hypervisor: Hypervisor, vm: Vm) -> dict[str, dict[str, BitmapState]]:
    """Per target the named bitmaps of its disk; targets without any have an empty dict.

    The source is QEMU (query-named-block-nodes) while it runs, else `qemu-img info` of each layer. Disks of a
    stopped VM that cannot be read on this host are left out.
    """
    if vm.has_qemu:
        return _of_running(hypervisor, vm)
    return _of_stopped(vm)


def source_images(hypervisor: Hypervisor, vm: Vm) -> dict[str, tuple[str, ...]]:
    """Per target what its layers are, top first: a file by its inode, which stays when it is renamed.

    Disks that cannot be seen from this host are left out.
    """
    if vm.has_qemu:
        chains = domain_xml.layers(hypervisor.live_xml(vm.uuid)).items()
        return {target: tuple(_identity(layer.path) for layer in chain) for target, chain in chains}
    found = {}
    for disk in vm.disks:
        with suppress(ToolFailedError, UnsupportedDiskError):
            found[disk.target] = tuple(_identity(layer.path) for layer in image.chain(disk))
    return found


def combine(parts_per_layer: Sequence[Mapping[str, BitmapPart]]) -> dict[str, BitmapState]:
    """Put the layers' parts (top first) together by name. Pure."""
    names = {name for layer in parts_per_layer for name in layer}
    states = {}
    for name in sorted(names):
        layers = tuple(number for number, layer in enumerate(parts_per_layer) if name in layer)
        states[name] = BitmapState(name, layers, tuple(parts_per_layer[number][name] for number in layers))
    return states


def nodes_with_bitmap(hypervisor: Hypervisor, vm: Vm, name: str) -> list[str]:
    """QEMU's node names, in the chains of the VM's disks, that hold a bitmap of this name."""
    parts = _parts_by_node(hypervisor, vm)
    chains = domain_xml.layers(hypervisor.live_xml(vm.uuid)).values()
    return [node for chain in chains for layer in chain for node in _node_names(layer) if name in parts.get(node, {})]


def remove_from_node(hypervisor: Hypervisor, vm: Vm, node: str, name: str) -> None:
    """Remove a bitmap, also an inconsistent one, through QEMU. Raises HypervisorError."""
    _qmp(hypervisor, vm, "block-dirty-bitmap-remove", node=node, name=name)


def _identity(path: str | None) -> str:
    if path is None:
        return "elsewhere"
    with suppress(OSError):
        if not image.is_block_device(path):
            return f"inode:{Path(path).stat().st_ino}"
    return f"path:{path}"


def _of_running(hypervisor: Hypervisor, vm: Vm) -> dict[str, dict[str, BitmapState]]:
    parts = _parts_by_node(hypervisor, vm)
    found = {}
    for target, chain in domain_xml.layers(hypervisor.live_xml(vm.uuid)).items():
        found[target] = combine([_first(parts, _node_names(layer)) for layer in chain])
    return found


def _of_stopped(vm: Vm) -> dict[str, dict[str, BitmapState]]:
    found = {}
    for disk in vm.disks:
        if disk.path is None or disk.kind is SourceKind.OTHER or not disk.can_have_bitmap:
            continue
        with suppress(ToolFailedError, UnsupportedDiskError):
            found[disk.target] = combine(
                [{bitmap.name: _stored_part(bitmap) for bitmap in layer.bitmaps} for layer in image.chain(disk)]
            )
    return found


def _stored_part(bitmap: image.StoredBitmap) -> BitmapPart:
    return BitmapPart(bitmap.granularity, recording=bitmap.auto, persistent=True, inconsistent=bitmap.in_use)


def _node_names(layer: domain_xml.Layer) -> tuple[str, ...]:
    # Newer libvirt makes no separate format node for raw images.
    if layer.node is None:
        return ()
    return (f"libvirt-{layer.node}-format", f"libvirt-{layer.node}-storage")


def _first(parts: Mapping[str, dict[str, BitmapPart]], names: Iterable[str]) -> dict[str, BitmapPart]:
    for name in names:
        if name in parts:
            return parts[name]
    return {}


def _parts_by_node(hypervisor: Hypervisor, vm: Vm) -> dict[str, dict[str, BitmapPart]]:
    nodes = _qmp(hypervisor, vm, "query-named-block-nodes", flat=True)
    return {
        str(node.get("node-name")): {
            str(bitmap["name"]): BitmapPart(
                granularity=int(bitmap.get("granularity", 0)),
                recording=bool(bitmap.get("recording")),
                persistent=bool(bitmap.get("persistent")),
                inconsistent=bool(bitmap.get("inconsistent", False)),
                busy=bool(bitmap.get("busy")),
            )
            for bitmap in node.get("dirty-bitmaps", ())
            if "name" in bitmap
        }
        for node in nodes
    }


def _qmp(hypervisor: Hypervisor, vm: Vm, command: str, **arguments: object) -> Any:
    domain = hypervisor.domain(vm.uuid)
    with translated(vm.name):
        answer = libvirt_qemu.qemuMonitorCommand(domain, json.dumps({"execute": command, "arguments": arguments}), 0)
    reply = json.loads(answer)
    if "error" in reply:
        raise HypervisorError(
            phrase(
                "VM {vm}: QEMU refused {command}: {reason}",
                vm=vm.name,
                command=command,
                reason=reply["error"].get("desc", "no reason given"),
            ),
            hint=phrase("/var/log/libvirt/qemu/<VM>.log may tell more."),
            vm=vm.name,
        )
    return reply.get("return")
