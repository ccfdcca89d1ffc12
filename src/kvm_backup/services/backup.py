"""Backup: one run on one VM, from the lock to the published point.

The order of the steps is what invariants 1 to 3 rest on; ARCHITECTURE.md tells what a crash leaves at each of them.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from kvm_backup import __version__
from kvm_backup.domain.chain import Decision, FullReason, Reason
from kvm_backup.domain.errors import (
    BitmapIncompleteError,
    CheckpointUnusableError,
    KvmBackupError,
    VmStateChangedError,
)
from kvm_backup.domain.names import PARTIAL_PREFIX, checkpoint_name
from kvm_backup.domain.phrase import listed, phrase
from kvm_backup.domain.point import Consistency, Demotion, DiskMode, Manifest, Mode, StoredDisk
from kvm_backup.domain.vm import Vm
from kvm_backup.hypervisor.checkpoints import delete_checkpoint
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.hypervisor.guard import Guard
from kvm_backup.hypervisor.leftovers import unneeded_checkpoints
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services import events
from kvm_backup.services.capture import capture_disks
from kvm_backup.services.clean_up import clean_up_after_dead_runs, unwanted_checkpoint
from kvm_backup.services.control import RunControl, SpaceWatch, refuse_when_stopped
from kvm_backup.services.folders import Folders
from kvm_backup.services.held_maps import Below, disk_below
from kvm_backup.services.options import BackupOptions
from kvm_backup.services.plan import Plan, make_plan, plan_for
from kvm_backup.services.session import RunFolders, open_session
from kvm_backup.services.snapshot import merge_unpublished_snapshots, prune_snapshots, take_snapshot
from kvm_backup.services.state_files import store_state_files
from kvm_backup.services.vm_lock import hold_vm

_ATTEMPTS = 2
"""A VM that is started or shut down during the copy is tried once more in its new state."""

_SETTLE_PATIENCE = 150.0
"""Seconds that libvirt gets to take down a VM whose guest powered itself off."""


@dataclass(frozen=True, slots=True)
class BackupService:
    """Backs VMs up into one repository. `clock` gives the time in UTC."""

    hypervisor: Hypervisor
    repository: LocalRepository
    folders: Folders
    options_for: Callable[[Vm], BackupOptions]
    clock: Callable[[], datetime]
    listener: events.Listener
    stop_requested: Callable[[], bool]
    after_point: Callable[[str], None] | None = None
    """Called with the VM's UUID when a point that holds data was made and the VM is free again."""

    def run(
        self, vm_name: str, mode: Mode, run_id: str | None = None
    ) -> tuple[events.Finished, KvmBackupError | None]:
        """Make one restore point. What goes wrong is not raised but returned, and told in the last event.

        With `run_id`, a point that this very run published before its process was killed is the result: there is
        never a second one.
        """
        began = time.monotonic()
        self.listener(events.Started(vm_name, mode.value, self.repository.name))
        error: KvmBackupError | None = None
        try:
            manifest = self._make_point(vm_name, mode, run_id)
            self._tidy_up(manifest)
            finished = self._finished(manifest, time.monotonic() - began)
        except KvmBackupError as problem:
            error = problem
        except Exception as problem:  # noqa: BLE001 - one VM's trouble must not cost the others their backup
            error = events.unexpected(problem)
        if error is not None:
            finished = events.failed(vm_name, mode.value, error, time.monotonic() - began)
        self.listener(finished)
        return finished, error

    def _make_point(self, vm_name: str, mode: Mode, run_id: str | None) -> Manifest:
        refuse_when_stopped(self.stop_requested)
        vm = self.hypervisor.vm(vm_name)
        options = self.options_for(vm)
        with hold_vm(
            self.folders.locks, vm.name, vm.uuid, wait=options.lock_wait, stop_requested=self.stop_requested
        ) as lock:
            published = None if run_id is None else self._published_by(run_id, vm)
            if published is not None:
                return published
            for attempt in range(1, _ATTEMPTS + 1):
                self._wait_until_settled(vm)
                run = _Run(self, self.hypervisor.vm(vm.uuid), options, lock, run_id)
                try:
                    manifest = run.snapshot() if mode is Mode.SNAPSHOT else run.capture(mode)
                    break
                except VmStateChangedError as error:
                    if attempt == _ATTEMPTS:
                        raise
                    self.listener(events.Notice(vm.name, phrase("{cause}; trying once more", cause=error.message)))
        return manifest

    def _wait_until_settled(self, vm: Vm) -> None:
        """A VM whose guest just powered itself off is neither on nor off."""
        deadline = time.monotonic() + _SETTLE_PATIENCE
        while self.hypervisor.shutting_down(vm.uuid) and time.monotonic() < deadline:
            refuse_when_stopped(self.stop_requested)
            time.sleep(0.2)

    def _tidy_up(self, manifest: Manifest) -> None:
        if self.after_point is None or manifest.mode is Mode.SNAPSHOT:
            return
        try:
            self.after_point(manifest.vm_uuid)
        except Exception as problem:  # noqa: BLE001 - the point is made, whatever happens to older ones
            error = problem if isinstance(problem, KvmBackupError) else events.unexpected(problem)
            self.listener(
                events.Notice(
                    manifest.vm_name, phrase("old points could not be removed: {cause}", cause=error.message)
                )
            )

    def _published_by(self, run_id: str, vm: Vm) -> Manifest | None:
        folder = self.repository.folder_of(vm.uuid)
        for point in self.repository.points(folder) if folder is not None else ():
            if isinstance(point, Manifest) and point.run == run_id:
                self.listener(
                    events.Notice(
                        vm.name, phrase("the point {id} was published before the interruption", id=point.id)
                    )
                )
                return point
        return None

    def _finished(self, manifest: Manifest, seconds: float) -> events.Finished:
        demotion = manifest.demotion
        return events.Finished(
            vm=manifest.vm_name,
            requested_mode=manifest.requested_mode.value,
            point=manifest.id,
            mode=manifest.mode.value,
            reason=demotion.reason.value if demotion else None,
            detail=demotion.detail if demotion else None,
            consistency=manifest.consistency.value,
            path=str(self.repository.path_of(manifest.id)),
            bytes_read=manifest.bytes_read,
            bytes_stored=manifest.bytes_stored,
            seconds=seconds,
        )


class _Run:
    """One attempt on one VM, whose lock is held."""

    def __init__(self, service: BackupService, vm: Vm, options: BackupOptions, lock: int, run_id: str | None) -> None:
        self._service = service
        self._hypervisor = service.hypervisor
        self._repository = service.repository
        self._vm = vm
        self._options = options
        self._lock = lock
        self._run_id = run_id
        self._notices: list[str] = []

    def capture(self, requested: Mode) -> Manifest:
        """A full or incremental point."""
        self._step(events.Step.PREPARE)
        self._clean_up()
        self._check_space()
        plan = make_plan(
            self._hypervisor,
            self._repository,
            self._vm,
            full_requested=requested is Mode.FULL,
            excluded=self._options.excluded_disks,
            longest_chain=self._options.longest_chain,
            remotes=self._options.remotes,
            unshippable=self._options.unshippable,
            closed=self._options.closed,
        )
        try:
            return self._capture(plan, requested)
        except CheckpointUnusableError as error:
            if plan.parent is None:
                raise
            # What we saw and what libvirt does can differ; an incremental never fails for that (invariant 3).
            incomplete = isinstance(error, BitmapIncompleteError)
            kind = FullReason.BITMAP_INCOMPLETE if incomplete else FullReason.REFUSED_BY_LIBVIRT
            refused = Decision(incremental=False, reasons=(Reason(kind),))
            saved = tuple(planned.disk for planned in plan.disks)
            images = {planned.disk.target: planned.images for planned in plan.disks}
            return self._capture(plan_for(self._vm, saved, plan.left_out, refused, None, images), requested)

    def snapshot(self) -> Manifest:
        """An external snapshot on the host, and the oldest ones beyond the number to keep are merged."""
        self._step(events.Step.PREPARE)
        self._clean_up()
        now = self._service.clock()
        partial = self._repository.begin_point(self._vm.name, self._vm.uuid, now)
        name = checkpoint_name(self._repository.id, _stamp(partial))
        guard: Guard | None = None
        run_folders: RunFolders | None = None
        try:
            run_folders = RunFolders.prepare(self._hypervisor, self._service.folders, self._vm)
            guard = self._start_guard(run_folders)
            self._step(events.Step.BEGIN)
            taken = take_snapshot(
                self._hypervisor,
                self._vm,
                guard,
                name=name,
                excluded=self._options.excluded_disks,
                freeze_timeout=self._options.freeze_timeout,
                notice=self._notice,
            )
            self._step(events.Step.PUBLISH)
            manifest = Manifest(
                **self._facts(partial, now, taken.consistency),
                mode=Mode.SNAPSHOT,
                requested_mode=Mode.SNAPSHOT,
                snapshot=taken.name,
                disks=taken.disks,
                left_out=taken.left_out,
                files=store_state_files(self._hypervisor, self._vm, partial),
            )
            self._repository.publish(partial, manifest)
        except BaseException:
            with contextlib.suppress(KvmBackupError):
                self._repository.discard(partial)
            with contextlib.suppress(KvmBackupError):
                merge_unpublished_snapshots(self._hypervisor, self._repository, self._vm, notice=self._notice)
            raise
        finally:
            self._leave(guard, run_folders)
        self._step(events.Step.ADVANCE)
        prune_snapshots(
            self._hypervisor, self._repository, self._vm, keep=self._options.snapshots_kept, notice=self._notice
        )
        return manifest

    def _capture(self, plan: Plan, requested: Mode) -> Manifest:
        demotion = _demotion(plan, requested)
        self._service.listener(
            events.ModeDecided(
                self._vm.name,
                plan.mode.value,
                demotion.reason.value if demotion else None,
                demotion.detail if demotion else None,
            )
        )
        for planned in plan.disks:
            if planned.disk.encrypted:
                self._notice(
                    phrase(
                        "disk {target} is encrypted on this host, but not in the restore point",
                        target=planned.disk.target,
                    )
                )
            if planned.mode is DiskMode.WHOLE:
                self._notice(
                    phrase(
                        "disk {target} ({format}) has no dirty bitmap: saved whole",
                        target=planned.disk.target,
                        format=planned.disk.format,
                    )
                )
        now = self._service.clock()
        partial = self._repository.begin_point(self._vm.name, self._vm.uuid, now)
        checkpoint = checkpoint_name(self._repository.id, _stamp(partial))
        guard: Guard | None = None
        run_folders: RunFolders | None = None
        try:
            run_folders = RunFolders.prepare(self._hypervisor, self._service.folders, self._vm)
            guard = self._start_guard(run_folders)
            manifest = self._fill(plan, requested, demotion, partial, checkpoint, now, run_folders, guard)
            # From here on the point may be visible: whoever cleans up must keep its checkpoint.
            guard.durable()
            self._repository.publish(partial, manifest)
        except BaseException:
            with contextlib.suppress(KvmBackupError):
                self._forget_checkpoint(checkpoint, guard)
            with contextlib.suppress(KvmBackupError):
                self._repository.discard(partial)
            raise
        else:
            self._step(events.Step.ADVANCE)
            self._forget_old_checkpoints(manifest)
        finally:
            self._leave(guard, run_folders)
        return manifest

    def _fill(
        self,
        plan: Plan,
        requested: Mode,
        demotion: Demotion | None,
        partial: Path,
        checkpoint: str,
        now: datetime,
        run_folders: RunFolders,
        guard: Guard,
    ) -> Manifest:
        """Everything of the point but the manifest, written and durable."""
        self._step(events.Step.BEGIN)
        identity = f"{partial.parent.name}/{_stamp(partial)}"
        facts = self._facts(partial, now, Consistency.CRASH)
        with open_session(
            self._hypervisor,
            plan,
            run_folders,
            guard,
            checkpoint=checkpoint,
            now=now,
            freeze_timeout=self._options.freeze_timeout,
            notice=self._notice,
        ) as session:
            files = store_state_files(self._hypervisor, self._vm, partial)
            self._step(events.Step.COPY)
            disks: tuple[StoredDisk, ...] = capture_disks(
                session,
                plan,
                partial,
                below=lambda target: self._below(plan, target),
                identity=f"{identity}@{facts['uuid']}",
                level=self._options.compression_level,
                make_control=lambda total: self._control(run_folders, session.watch, total),
            )
        self._step(events.Step.PUBLISH)
        return Manifest(
            **facts | {"consistency": session.consistency, "finished": self._service.clock()},
            mode=plan.mode,
            requested_mode=requested,
            demotion=demotion,
            parent=plan.parent.id if plan.parent else None,
            parent_uuid=plan.parent.uuid if plan.parent else None,
            checkpoint=session.checkpoint,
            disks=disks,
            left_out=plan.left_out,
            files=files,
        )

    def _below(self, plan: Plan, target: str) -> Below:
        if plan.parent is None:
            return Below()
        return disk_below(self._repository, self._repository.chain(plan.parent), target)

    def _facts(self, partial: Path, now: datetime, consistency: Consistency) -> dict[str, Any]:
        return {
            "id": f"{partial.parent.name}/{_stamp(partial)}",
            "uuid": str(uuid4()),
            "repository": self._repository.id,
            "vm_name": self._vm.name,
            "vm_uuid": self._vm.uuid,
            "created": now,
            "finished": self._service.clock(),
            "consistency": consistency,
            "notices": tuple(self._notices),
            "run": self._run_id,
            "tool_version": __version__,
        }

    def _clean_up(self) -> None:
        clean_up_after_dead_runs(
            self._hypervisor, self._repository, self._service.folders, self._vm, notice=self._tell_only
        )

    def _check_space(self) -> None:
        for watch in self._space_watches(self._service.folders.scratch):
            watch.check()

    def _space_watches(self, scratch: Path) -> tuple[SpaceWatch, SpaceWatch]:
        reserve = self._options.space_reserve
        scratch.mkdir(mode=0o711, parents=True, exist_ok=True)
        return (
            SpaceWatch(phrase("restore points"), self._repository.root, reserve),
            SpaceWatch(phrase("QEMU's scratch files"), scratch, reserve),
        )

    def _control(self, run_folders: RunFolders, still_there: Callable[[], None], total: int) -> RunControl:
        vm = self._vm.name
        return RunControl(
            stop_requested=self._service.stop_requested,
            watches=self._space_watches(run_folders.scratch),
            still_there=still_there,
            on_progress=lambda done, of: self._service.listener(events.Progress(vm, events.Step.COPY, done, of)),
            total=total,
        )

    @staticmethod
    def _leave(guard: Guard | None, run_folders: RunFolders | None) -> None:
        if guard is not None:
            guard.done()
        if run_folders is not None:
            run_folders.clear()

    def _start_guard(self, run_folders: RunFolders) -> Guard:
        return Guard.start(
            vm=self._vm.uuid,
            uri=self._hypervisor.uri,
            socket_path=run_folders.socket,
            scratch_folder=run_folders.scratch,
            # Half of what the run itself keeps free: the guard acts when the run does not.
            scratch_reserve=self._options.space_reserve // 2,
            pass_fds=[self._lock],
        )

    def _forget_checkpoint(self, checkpoint: str, guard: Guard | None) -> None:
        """The run failed; when its checkpoint cannot be deleted at once, the guard goes on trying."""
        if guard is None:
            return
        with contextlib.suppress(KvmBackupError):
            guard.checkpoint(checkpoint)
        delete_checkpoint(self._hypervisor, self._vm.uuid, checkpoint)
        guard.forgotten()

    def _forget_old_checkpoints(self, manifest: Manifest) -> None:
        """The point is safe; what the checkpoints before it cost the guest's bitmaps is saved from now on."""
        unwanted = unwanted_checkpoint(self._repository.id, manifest.checkpoint)
        try:
            vm = self._hypervisor.vm(self._vm.uuid)
            for name in unneeded_checkpoints(self._hypervisor, vm, unwanted):
                delete_checkpoint(self._hypervisor, vm.uuid, name)
        except KvmBackupError as error:
            self._tell_only(phrase("an old checkpoint stays until the next run: {cause}", cause=error.message))

    def _step(self, step: events.Step) -> None:
        """Tells that a step begins. Before it does anything to the guest, a run can still be called off."""
        if step is events.Step.BEGIN:
            refuse_when_stopped(self._service.stop_requested)
        self._service.listener(events.StepStarted(self._vm.name, step))

    def _notice(self, message: str) -> None:
        self._notices.append(message)
        self._tell_only(message)

    def _tell_only(self, message: str) -> None:
        self._service.listener(events.Notice(self._vm.name, message))


def _stamp(partial: Path) -> str:
    return partial.name.removeprefix(PARTIAL_PREFIX)


def _demotion(plan: Plan, requested: Mode) -> Demotion | None:
    if requested is not Mode.INCREMENTAL or plan.mode is Mode.INCREMENTAL:
        return None
    reasons = plan.decision.reasons
    return Demotion(reason=reasons[0].kind, detail=listed("; ", *(reason.text for reason in reasons)))
