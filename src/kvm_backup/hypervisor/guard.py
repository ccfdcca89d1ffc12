"""A small second process that protects the guest when this one is killed.

It holds one end of a socket pair. When the other end closes without the word `done`, the run is dead, and the guard
thaws the guest, ends the run's backup job, deletes its unfinished checkpoint and clears its folders
(guard_process). It also inherits the VM's lock, so that the next run waits until the guest is well.
"""

import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from kvm_backup.domain.errors import BadArgumentError, HypervisorError
from kvm_backup.domain.phrase import phrase
from kvm_backup.process import Program, finish, last_line, start

READY_TIMEOUT = 20.0
"""Seconds; it needs 0.1 on a busy machine."""

CLEAN_UP_TIMEOUT = 300.0
"""Seconds; longer than the guard itself goes on trying."""


class Guard:
    """Tell it each step before it is taken: what it does not know it cannot undo."""

    def __init__(self, program: Program, wire: socket.socket) -> None:
        self._program = program
        self._wire = wire
        self._outstanding: set[str] = set()

    @classmethod
    def start(
        cls,
        *,
        vm: str,
        uri: str,
        socket_path: Path,
        scratch_folder: Path,
        scratch_reserve: int = 0,
        pass_fds: Sequence[int] = (),
    ) -> Self:
        """Start the guard for a run on the VM with UUID `vm` and wait until it watches.

        `scratch_reserve` is what must stay free beside the scratch files, in bytes: below it the guard ends the
        job, because QEMU would give the guest write errors. `socket_path` lies in the run's folder; `pass_fds` are
        kept open until it ends (the VM's lock).
        Raises HypervisorError when it does not come up.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            program = start(
                [
                    *(sys.executable, "-P", "-m", "kvm_backup.hypervisor.guard_process"),
                    *(str(theirs.fileno()), uri, vm, socket_path, scratch_folder, str(scratch_reserve)),
                ],
                pass_fds=[theirs.fileno(), *pass_fds],
                own_session=True,
            )
        ours.settimeout(READY_TIMEOUT)
        guard = cls(program, ours)
        try:
            ready = ours.recv(16) == b"ready\n"
        except OSError:
            ready = False
        if not ready:
            said = guard._abandon(READY_TIMEOUT)
            raise HypervisorError(
                phrase("the process that guards the guest did not start: {said}", said=said or "it said nothing"),
                hint=phrase("Without it a killed backup could leave the guest frozen, so the backup was not begun."),
            )
        return guard

    def freezing(self) -> None:
        """A freeze is about to be asked for."""
        self._outstanding.add("frozen")
        self._tell("freezing")

    def thawed(self) -> None:
        """The thaw was confirmed."""
        self._outstanding.discard("frozen")
        self._tell("thawed")

    def checkpoint(self, name: str) -> None:
        """A checkpoint of this name is about to be made; until `durable` it is deleted with the run."""
        if "\n" in name:
            raise BadArgumentError(
                phrase("a checkpoint's name cannot hold a line break"), hint=phrase("Choose another name.")
            )
        self._outstanding.add("checkpoint")
        self._tell(f"checkpoint {name}")

    def forgotten(self) -> None:
        """The unfinished checkpoint is gone."""
        self._outstanding.discard("checkpoint")

    def beginning(self) -> None:
        """A job, or a stopped VM's checkpoint, is about to be made: it may turn up a little after our death."""
        self._outstanding.add("job")
        self._tell("beginning")

    def begun(self) -> None:
        """The job, or the checkpoint, is there."""
        self._tell("begun")

    def ended(self) -> None:
        """The job is gone, or the stopped VM's checkpoint is there and nothing else was begun."""
        self._outstanding.discard("job")
        self._tell("ended")

    def durable(self) -> None:
        """The point that belongs to the checkpoint is published (or is about to be): keep the checkpoint."""
        self._outstanding.discard("checkpoint")
        self._tell("durable")

    def done(self) -> None:
        """The run is over, and what it could not undo is left to the guard; returns when that has ended.

        Safe to call again, and when the guard is gone.
        """
        if self._outstanding:
            self._abandon(CLEAN_UP_TIMEOUT)
            return
        with suppress(HypervisorError):
            self._tell("done")
        self._abandon(READY_TIMEOUT)

    def _tell(self, words: str) -> None:
        try:
            self._wire.sendall(words.encode() + b"\n")
        except OSError as error:
            raise HypervisorError(
                phrase("the process that guards the guest has ended"),
                hint=phrase("Someone killed it, or memory ran out (see the kernel's log); run the backup again."),
            ) from error

    def _abandon(self, timeout: float) -> str:
        self._wire.close()
        return last_line(finish(self._program, timeout))
