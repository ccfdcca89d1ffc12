"""Reading the disk of a stopped VM: qemu-nbd on a unix socket, without standing in the way of a start of the VM.

Tried with QEMU 7.2: `force-share` opens the image without a lock, so libvirt can start the VM while we read; the
caller must then throw the copy away (Hypervisor.state tells). `-B <bitmap>` exports `qemu:dirty-bitmap:<bitmap>`
and looks at the top layer only.
"""

import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kvm_backup.domain.disk import Disk
from kvm_backup.domain.errors import CheckpointUnusableError, KvmBackupError, ToolFailedError, UnsupportedDiskError
from kvm_backup.domain.phrase import phrase
from kvm_backup.hypervisor import image, run_folder
from kvm_backup.process import last_line, start

READY_TIMEOUT = 30.0
"""Seconds to wait for qemu-nbd's socket; it needs 20 ms unless the storage hangs."""


class OfflineExport:
    """One disk of a stopped VM, served read-only over NBD as export `<target>` until `close`.

    qemu-nbd is killed by the kernel when this process dies.
    """

    def __init__(self, disk: Disk, socket_path: Path, bitmap: str | None = None, *, connections: int = 16) -> None:
        """Start qemu-nbd and wait until it answers.

        `bitmap` is the dirty bitmap to export with it. Raises UnsupportedDiskError, CheckpointUnusableError (the
        bitmap is not there, was not saved, or has parts in lower layers), ToolFailedError, ToolMissingError.
        """
        run_folder.check_socket_path(socket_path)
        if disk.path is None:
            raise UnsupportedDiskError(
                phrase("disk {target} is not a file or block device of this host", target=disk.target),
                hint=phrase("Start the VM: such a disk can be read through QEMU only."),
            )
        if bitmap is not None:
            _check_bitmap(disk, bitmap)
        self.disk = disk
        self.socket = socket_path
        self.export = disk.target
        self.bitmap = bitmap
        self._said: deque[str] = deque(maxlen=20)
        self._failure: KvmBackupError | None = None
        self._started = threading.Event()
        argv = ["setpriv", "--pdeathsig", "KILL", "qemu-nbd", "--read-only", "--persistent"]
        argv += [f"--socket={socket_path}", f"--export-name={disk.target}", f"--shared={connections}"]
        argv += [f"--bitmap={bitmap}"] if bitmap is not None else []
        argv.append(image.description(disk.path, disk.format, force_share=True))
        # The kernel sends the death signal when the *thread* that started the program ends, so that thread stays
        # until the program has ended.
        self._keeper = threading.Thread(target=self._keep, args=(argv,), name=f"qemu-nbd-{disk.target}", daemon=True)
        self._keeper.start()
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def alive(self) -> bool:
        """Whether qemu-nbd still serves the disk."""
        return self._keeper.is_alive()

    def close(self) -> None:
        """End qemu-nbd and remove its socket; safe to call again."""
        self._started.wait()
        if self._keeper.is_alive() and self._failure is None:
            with suppress(ProcessLookupError):
                self._program.terminate()
            self._keeper.join(5.0)
            if self._keeper.is_alive():
                self._program.kill()
                self._keeper.join()
        self.socket.unlink(missing_ok=True)

    def _keep(self, argv: Sequence[str]) -> None:
        try:
            self._program = start(argv)
        except KvmBackupError as error:
            self._failure = error
            return
        finally:
            self._started.set()
        with self._program as program:
            if program.stderr is not None:
                self._said.extend(program.stderr)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT
        while time.monotonic() < deadline:
            alive = self._keeper.is_alive()
            if self._failure is not None:
                raise self._failure
            if not alive:
                raise ToolFailedError(
                    phrase(
                        "qemu-nbd cannot serve {path}: {last_line}",
                        path=self.disk.path,
                        last_line=last_line("".join(self._said)) or "it said nothing",
                    ),
                    hint=phrase("Check the image with: qemu-img check -U"),
                )
            if _accepts(self.socket):
                return
            time.sleep(0.005)
        raise ToolFailedError(
            phrase(
                "qemu-nbd did not answer within {ready_timeout:.0f} s for {path}",
                ready_timeout=READY_TIMEOUT,
                path=self.disk.path,
            ),
            hint=phrase("The storage may hang; look at the kernel's log."),
        )


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
            return probe.recv(8) == b"NBDMAGIC"
        except OSError:
            return False


def _check_bitmap(disk: Disk, name: str) -> None:
    layers = image.chain(disk)
    holders = [number for number, layer in enumerate(layers) if any(one.name == name for one in layer.bitmaps)]
    if holders != [0]:
        where = phrase("in several layers")
        if not holders:
            where = phrase("in no layer")
        elif holders[0] != 0:
            where = phrase("in a lower layer")
        raise CheckpointUnusableError(
            phrase(
                "the bitmap {name} of disk {target} is {where} of its backing chain",
                name=name,
                target=disk.target,
                where=where,
            ),
            hint=phrase(
                "While the VM is off only a bitmap that lies in the top layer alone can be read: start "
                "the VM, or take a full backup."
            ),
        )
    if any(one.in_use for one in layers[0].bitmaps if one.name == name):
        raise CheckpointUnusableError(
            phrase("the bitmap {name} of disk {target} was not saved when QEMU ended", name=name, target=disk.target),
            hint=phrase("The next backup must be a full one."),
        )
