"""Doctor: what is installed, missing, misconfigured or left behind on this host."""

import importlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from functools import partial

from kvm_backup.domain.errors import KvmBackupError, VmBusyError, VmNotFoundError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.schedule import Schedule
from kvm_backup.domain.vm import Vm
from kvm_backup.hypervisor import apparmor
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.hypervisor.leftovers import find_of_unknown_vms, remove
from kvm_backup.hypervisor.run_folder import clear, prepare_run_folder
from kvm_backup.hypervisor.snapshots import delete_snapshot
from kvm_backup.process import PACKAGES
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services import restore_in_place
from kvm_backup.services.checks import Check, Health
from kvm_backup.services.clean_up import leftovers_of
from kvm_backup.services.control import SpaceWatch
from kvm_backup.services.folders import Folders
from kvm_backup.services.snapshot import orphaned_snapshots
from kvm_backup.services.vm_lock import hold_vm

_NEEDED = ("qemu-img", "qemu-nbd", "setpriv")
_MODULES = {"libvirt": "python3-libvirt", "nbd": "python3-libnbd"}


@dataclass(frozen=True, slots=True)
class Remains:
    """One thing that a dead run left behind. `removed` tells whether --clean took it away."""

    vm: str
    kind: str
    name: str
    detail: str
    removed: bool = False
    error: str | None = None


def check_programs() -> Iterator[Check]:
    """Programs and modules that the host's distribution brings."""
    for program in _NEEDED:
        found = shutil.which(program)
        if found:
            yield Check(program, Health.OK, found)
        else:
            package = PACKAGES.get(program, program)
            yield Check(program, Health.PROBLEM, phrase("not installed"), f"apt-get install {package}")
    for module, package in _MODULES.items():
        try:
            importlib.import_module(module)
            yield Check(f"python3 {module}", Health.OK, phrase("installed"))
        except ImportError as error:
            yield Check(f"python3 {module}", Health.PROBLEM, str(error), f"apt-get install {package}")


def check_hypervisor(connect: Callable[[], Hypervisor]) -> Iterator[Check]:
    """libvirt, QEMU and the VMs."""
    try:
        hypervisor = connect()
        versions = hypervisor.versions()
        yield Check("libvirt", Health.OK, f"{hypervisor.uri}, libvirt {versions.libvirt}, QEMU {versions.qemu}")
        vms = hypervisor.list_vms()
    except KvmBackupError as error:
        yield Check("libvirt", Health.PROBLEM, error.message, error.hint)
        return
    running = sum(vm.has_qemu for vm in vms)
    yield Check(phrase("VMs"), Health.OK, phrase("{count}, of which {running} run", count=len(vms), running=running))


def check_folders(
    hypervisor: Hypervisor, folders: Folders, repositories: Sequence[Callable[[], LocalRepository]], reserve: int
) -> Iterator[Check]:
    """Whether QEMU can use the scratch and runtime folders, and every repository opens and has room."""
    for name, root in ((phrase("scratch folder"), folders.scratch), (phrase("runtime folder"), folders.runtime)):
        probe = root / "doctor"
        try:
            prepare_run_folder(probe, hypervisor.qemu_owner())
            SpaceWatch(name, root, reserve).check()
            yield Check(name, Health.OK, str(root))
        except KvmBackupError as error:
            yield Check(name, Health.PROBLEM, error.message, error.hint)
        finally:
            clear(probe)
    yield from _check_confinement(hypervisor, folders)
    for open_repository in repositories:
        try:
            repository = open_repository()
            SpaceWatch(phrase("restore points"), repository.root, reserve).check()
            yield Check(phrase("repository {name}", name=repository.name), Health.OK, str(repository.root))
        except KvmBackupError as error:
            yield Check(phrase("repository"), Health.PROBLEM, error.message, error.hint)


def _check_confinement(hypervisor: Hypervisor, folders: Folders) -> Iterator[Check]:
    """Whether AppArmor, where libvirt uses it, lets QEMU use the folders."""
    if "apparmor" not in hypervisor.security_models():
        return
    missing = apparmor.missing_rules([folders.runtime, folders.scratch])
    if not missing:
        yield Check("AppArmor", Health.OK, phrase("rules are in {file}", file=apparmor.LOCAL_RULES))
        return
    yield Check(
        "AppArmor",
        Health.PROBLEM,
        phrase("QEMU may not create the backup's socket and scratch files"),
        phrase(
            "Add to {file}: {rules} Then: {command}",
            file=apparmor.LOCAL_RULES,
            rules=" ".join(missing),
            command=apparmor.RELOAD,
        ),
    )


def check_service(
    schedules: Callable[[], Sequence[Schedule]], *, running: bool, started: datetime | None, zone: tzinfo
) -> Check:
    """Whether what is scheduled will be started. `started` is when the service began, where it said so."""
    name = phrase("service")
    if running:
        if started is None:
            return Check(name, Health.OK, phrase("runs"))
        return Check(
            name, Health.OK, phrase("runs since {time}", time=f"{started.astimezone(zone):%Y-%m-%d %H:%M %Z}")
        )
    try:
        enabled = sum(schedule.enabled for schedule in schedules())
    except KvmBackupError as error:
        return Check(name, Health.PROBLEM, error.message, error.hint)
    if not enabled:
        return Check(name, Health.OK, phrase("does not run; no schedule needs it"))
    return Check(
        name,
        Health.PROBLEM,
        phrase("does not run: nothing starts the {count} enabled schedules", count=enabled)
        if enabled > 1
        else phrase("does not run: nothing starts the enabled schedule"),
        phrase(
            "Start it: systemctl enable --now kvm-backup ('kvm-backup install-service' writes its unit). "
            "Without systemd: kvm-backup serve"
        ),
    )


def find_remains(
    hypervisor: Hypervisor, folders: Folders, repositories: Sequence[LocalRepository], *, clean: bool
) -> Iterator[Remains]:
    """What dead runs left behind; with `clean` it is removed. A VM that a run works on right now is passed over."""
    for vm in hypervisor.list_vms():
        try:
            with hold_vm(folders.locks, vm.name, vm.uuid, wait=0.0):
                yield from _of_vm(hypervisor, folders, repositories, vm, clean)
        except (VmBusyError, VmNotFoundError):
            continue
        except KvmBackupError as error:
            # One VM that cannot be examined, for instance because its image is missing, hides no other.
            yield Remains(
                vm.name, "not-examined", vm.uuid, phrase("what is left of it is not known"), error=error.message
            )
    for leftover in find_of_unknown_vms(hypervisor, run_root=folders.runtime, scratch_root=folders.scratch):
        yield _settle(
            Remains(leftover.vm, leftover.kind.value, leftover.name, leftover.detail),
            clean,
            partial(remove, hypervisor, leftover),
        )


def _of_vm(
    hypervisor: Hypervisor, folders: Folders, repositories: Sequence[LocalRepository], vm: Vm, clean: bool
) -> Iterator[Remains]:
    interrupted = restore_in_place.remains(vm)
    if interrupted:
        yield _settle(
            Remains(
                vm.name,
                "restore-in-place",
                str(interrupted[0].final),
                phrase(
                    "a restore in place was interrupted; repeat it, or remove its files and get the old disks back"
                ),
            ),
            clean,
            partial(restore_in_place.settle_vm, hypervisor, vm),
        )
    seen: set[tuple[str, str]] = set()
    for repository in repositories:
        for leftover in leftovers_of(hypervisor, repository, folders, vm):
            if (leftover.kind, leftover.name) not in seen:
                seen.add((leftover.kind, leftover.name))
                yield _settle(
                    Remains(vm.name, leftover.kind.value, leftover.name, leftover.detail),
                    clean,
                    partial(remove, hypervisor, leftover),
                )
        for name in orphaned_snapshots(hypervisor, repository, vm):
            yield _settle(
                Remains(vm.name, "snapshot", name, phrase("a snapshot that was never published")),
                clean,
                partial(delete_snapshot, hypervisor, vm.uuid, name),
            )
        folder = repository.folder_of(vm.uuid)
        for unfinished in repository.partials(folder) if folder is not None else []:
            yield _settle(
                Remains(vm.name, "unfinished-point", str(unfinished), phrase("a point that was never published")),
                clean,
                partial(repository.discard, unfinished),
            )


def _settle(remains: Remains, clean: bool, take_away: Callable[[], None]) -> Remains:
    if not clean:
        return remains
    try:
        take_away()
    except KvmBackupError as error:
        return Remains(remains.vm, remains.kind, remains.name, remains.detail, error=error.message)
    return Remains(remains.vm, remains.kind, remains.name, remains.detail, removed=True)
