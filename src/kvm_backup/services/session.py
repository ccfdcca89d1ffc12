"""Reading a VM's disks at one instant: through a backup job while it runs, through qemu-nbd while it is off.

Either way a new checkpoint is made at that instant, and the guard process knows of everything that must not stay
behind, before it exists.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from kvm_backup.domain.disk import SourceKind
from kvm_backup.domain.errors import HypervisorUnavailableError, KvmBackupError, VmStateChangedError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Consistency, DiskMode
from kvm_backup.domain.vm import Vm
from kvm_backup.engine.source import NbdSource
from kvm_backup.hypervisor import backup_job, run_folder
from kvm_backup.hypervisor.backup_job import BackupJob, DiskRequest
from kvm_backup.hypervisor.checkpoints import create_offline_checkpoint
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.hypervisor.guard import Guard
from kvm_backup.hypervisor.guest_agent import Freeze, FreezeOutcome, Thaw, ThawOutcome, freeze, thaw
from kvm_backup.hypervisor.leftovers import vm_folder
from kvm_backup.hypervisor.offline import OfflineExport
from kvm_backup.services.folders import Folders
from kvm_backup.services.plan import Plan

RESTART_PATIENCE = 60.0
"""Seconds that a restarting libvirtd gets to answer again before a copy that is complete counts as failed."""

NOTICE_PATIENCE = 3.0
"""Seconds within which libvirt notices that a QEMU is gone; milliseconds on a quiet host."""


@dataclass(frozen=True, slots=True)
class Session:
    """The disks as they were at one instant, open for reading while the `with` block lasts.

    `checkpoint` is the new one, None when no disk can have a bitmap. `unchanged` tells whether what is read is still
    what it should be: the VM was not started, stopped or killed. It raises HypervisorUnavailableError; that is no
    reason to stop reading, but nothing that was read counts before it was asked again.
    """

    consistency: Consistency
    checkpoint: str | None
    connect: Callable[[str], NbdSource]
    unchanged: Callable[[], bool]
    vm: str

    def watch(self) -> None:
        """Raises VmStateChangedError when that is certain; cheap enough to be called while copying."""
        with suppress(HypervisorUnavailableError):
            self._require()

    def confirm(self) -> None:
        """The same for what was read to the end: waits for a libvirtd that restarts. Raises
        VmStateChangedError, HypervisorUnavailableError."""
        deadline = time.monotonic() + RESTART_PATIENCE
        while True:
            try:
                return self._require()
            except HypervisorUnavailableError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.5)

    def explain(self) -> None:
        """Reading failed: raises VmStateChangedError when the VM is the cause, which libvirt may notice late."""
        deadline = time.monotonic() + NOTICE_PATIENCE
        while time.monotonic() < deadline:
            self.confirm()
            time.sleep(0.1)

    def _require(self) -> None:
        if not self.unchanged():
            raise VmStateChangedError(
                phrase(
                    "the VM {vm} was started, shut down or killed while it was read, or its backup job was ended",
                    vm=self.vm,
                ),
                hint=phrase("Run the backup again; it works on a VM that is on or off."),
                vm=self.vm,
            )


@dataclass(frozen=True, slots=True)
class RunFolders:
    """The folders of one run: QEMU makes its socket in the one, and opens scratch files in the other."""

    runtime: Path
    scratch: Path

    @classmethod
    def prepare(cls, hypervisor: Hypervisor, folders: Folders, vm: Vm) -> "RunFolders":
        """Make them. Raises StorageError when QEMU's user could not reach them."""
        owner = hypervisor.qemu_owner(vm.uuid if vm.has_qemu else None)
        return cls(
            runtime=run_folder.prepare_run_folder(vm_folder(folders.runtime, vm.uuid), owner),
            scratch=run_folder.prepare_scratch_folder(vm_folder(folders.scratch, vm.uuid), owner),
        )

    @property
    def socket(self) -> Path:
        """Where the backup job of a running VM listens."""
        return run_folder.socket_path(self.runtime)

    def clear(self) -> None:
        run_folder.clear(self.runtime)
        run_folder.clear(self.scratch)


@contextmanager
def open_session(
    hypervisor: Hypervisor,
    plan: Plan,
    run_folders: RunFolders,
    guard: Guard,
    *,
    checkpoint: str,
    now: datetime,
    freeze_timeout: float | None,
    notice: Callable[[str], None],
) -> Iterator[Session]:
    """Open the disks of a plan at this instant; everything but the checkpoint is gone when the block ends.

    Raises VmBusyError, CheckpointUnusableError, VmStateChangedError, SourceReadError, HypervisorError.
    """
    if plan.vm.has_qemu:
        with _running(hypervisor, plan, run_folders, guard, checkpoint, freeze_timeout, notice) as session:
            yield session
    else:
        with _stopped(hypervisor, plan, run_folders, guard, checkpoint, now) as session:
            yield session


@contextmanager
def _running(
    hypervisor: Hypervisor,
    plan: Plan,
    run_folders: RunFolders,
    guard: Guard,
    checkpoint: str,
    freeze_timeout: float | None,
    notice: Callable[[str], None],
) -> Iterator[Session]:
    vm = plan.vm
    socket = run_folders.socket
    job: BackupJob | None = None

    def end() -> None:
        if job is not None:
            job.end()
            guard.ended()

    guard.checkpoint(checkpoint)
    try:
        with frozen_file_systems(hypervisor, vm, guard, freeze_timeout, notice) as frozen:
            guard.beginning()
            job = _begin(hypervisor, plan, run_folders, guard, checkpoint)
            guard.begun()
        exports = job.exports

        def connect(target: str) -> NbdSource:
            export = exports[target]
            return NbdSource.connect(socket, export.name, dirty_bitmap=export.bitmap)

        yield Session(
            Consistency.FILESYSTEM if frozen.result is Freeze.FROZEN and frozen.count else Consistency.CRASH,
            job.checkpoint,
            connect,
            job.alive,
            vm.name,
        )
    except BaseException:
        # The first failure is the one to tell; a job that cannot be ended now is left to the guard.
        with suppress(KvmBackupError):
            end()
        raise
    else:
        end()


def _begin(hypervisor: Hypervisor, plan: Plan, run_folders: RunFolders, guard: Guard, checkpoint: str) -> BackupJob:
    try:
        return backup_job.begin(
            hypervisor,
            plan.vm,
            [DiskRequest(planned.disk.target, planned.mode is DiskMode.INCREMENTAL) for planned in plan.disks],
            checkpoint=checkpoint,
            base=plan.base_checkpoint,
            socket=run_folders.socket,
            scratch_folder=run_folders.scratch,
        )
    except HypervisorUnavailableError:
        # The connection broke within the call: the job may be there all the same, and the guard looks for it.
        raise
    except KvmBackupError:
        guard.ended()
        raise


@contextmanager
def frozen_file_systems(
    hypervisor: Hypervisor, vm: Vm, guard: Guard, timeout: float | None, notice: Callable[[str], None]
) -> Iterator[FreezeOutcome]:
    """Freeze the guest's file systems for the block, if its agent lets us, and thaw them whatever happens."""
    if timeout is None:
        yield FreezeOutcome(Freeze.NO_AGENT, reason="freezing is switched off")
        return
    guard.freezing()
    outcome = FreezeOutcome(Freeze.FAILED, reason="interrupted")
    thawed: ThawOutcome | None = None
    try:
        outcome = freeze(hypervisor, vm.uuid, timeout)
        yield outcome
    finally:
        thawed = thaw(hypervisor, vm.uuid) if outcome.needs_thaw else None
        if thawed is None or thawed.result is not Thaw.UNCONFIRMED:
            guard.thawed()
    # Told only now, because whoever listens may take his time, and the guest stands still until it is thawed.
    if outcome.result in (Freeze.FAILED, Freeze.UNRESPONSIVE):
        notice(phrase("the guest agent could not freeze the file systems: {reason}", reason=outcome.reason))
    if thawed is not None and thawed.result is Thaw.UNCONFIRMED:
        notice(
            phrase("the guest agent did not confirm that the file systems are thawed: {reason}", reason=thawed.reason)
        )


@contextmanager
def _stopped(
    hypervisor: Hypervisor, plan: Plan, run_folders: RunFolders, guard: Guard, checkpoint: str, now: datetime
) -> Iterator[Session]:
    vm = plan.vm
    targets = plan.targets_with_bitmap
    made = checkpoint if targets else None

    before: dict[str, tuple[int, ...]] = {}

    def unchanged() -> bool:
        return not hypervisor.vm(vm.uuid).has_qemu and _image_stamps(plan) == before

    with ExitStack() as exports:
        if made is not None:
            guard.checkpoint(made)
            guard.beginning()
            try:
                create_offline_checkpoint(hypervisor, vm, made, targets, now)
            except KvmBackupError as error:
                if hypervisor.vm(vm.uuid).has_qemu:
                    raise VmStateChangedError(
                        phrase("the VM {vm} was started just now", vm=vm.name),
                        hint=phrase("Run the backup again."),
                        vm=vm.name,
                    ) from error
                raise
            guard.begun()
            guard.ended()
        before |= _image_stamps(plan)

        def connect(target: str) -> NbdSource:
            planned = next(planned for planned in plan.disks if planned.disk.target == target)
            bitmap = plan.base_checkpoint if planned.mode is DiskMode.INCREMENTAL else None
            export = OfflineExport(planned.disk, run_folders.runtime / target, bitmap)
            exports.callback(export.close)
            return NbdSource.connect(export.socket, export.export, dirty_bitmap=bitmap)

        clean = Consistency.FILESYSTEM if vm.clean_shutdown else Consistency.CRASH
        yield Session(clean, made, connect, unchanged, vm.name)


def _image_stamps(plan: Plan) -> dict[str, tuple[int, ...]]:
    """What a write to an image changes: a VM that was started and stopped between two looks has left its mark."""
    stamps: dict[str, tuple[int, ...]] = {}
    for planned in plan.disks:
        if planned.disk.path is not None and planned.disk.kind is SourceKind.FILE:
            with suppress(OSError):
                status = Path(planned.disk.path).stat()
                stamps[planned.disk.path] = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return stamps
