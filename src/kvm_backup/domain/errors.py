"""The error tree: every failure a user can meet, in one place.

An error says what failed, for which VM, why, and what to do (its hint). Its `code` is stable and part of the
JSON output; `retryable` tells whether the same call can succeed later without anyone changing a thing;
`exit_code` is what the command line ends with (the table in docs/cli.md is tested against this file).
"""

from typing import ClassVar

from kvm_backup.domain.phrase import phrase

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_BAD_ARGUMENTS = 2
EXIT_SOME_FAILED = 3
EXIT_NOT_FOUND = 4


class KvmBackupError(Exception):
    """Base of all errors that are reported to a user.

    `message` is the cause, in lower case, without a full stop; `hint` is one or more full sentences.
    """

    code: ClassVar[str] = "failed"
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = EXIT_FAILED

    def __init__(self, message: str, *, hint: str, vm: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.vm = vm


# What the caller asked for cannot be done as asked.


class BadArgumentError(KvmBackupError):
    """An argument is malformed, or arguments do not go together."""

    code = "bad-argument"
    exit_code = EXIT_BAD_ARGUMENTS


_FIELDS = {
    "name": phrase("name"),
    "vm_names": phrase("vm_names"),
    "schedule_type": phrase("schedule_type"),
    "schedule_time": phrase("schedule_time"),
    "backup_mode": phrase("backup_mode"),
    "repository": phrase("repository"),
    "pre_script": phrase("pre_script"),
    "post_script": phrase("post_script"),
    "keep_last": phrase("keep_last"),
    "keep_daily": phrase("keep_daily"),
    "keep_weekly": phrase("keep_weekly"),
    "keep_monthly": phrase("keep_monthly"),
    "keep_yearly": phrase("keep_yearly"),
    "ship_to": phrase("ship_to"),
}
"""What the fields of a schedule are called, in English as in their file."""


class InvalidScheduleError(BadArgumentError):
    """A field of a schedule cannot be used."""

    code = "invalid-schedule"

    def __init__(self, field: str, came: object, expected: str) -> None:
        super().__init__(
            phrase("{field}: {came!r} cannot be used", field=_FIELDS.get(field, field), came=came),
            hint=phrase("Expected: {expected}. Nothing was changed.", expected=expected),
        )
        self.field = field
        self.came = came
        self.expected = expected


class ScheduleChangedError(KvmBackupError):
    """Somebody else changed the schedule since the user saw it."""

    code = "schedule-changed"

    def __init__(self, name: str) -> None:
        super().__init__(
            phrase("{name} was changed by somebody else meanwhile", name=name),
            hint=phrase("Look at what it is now, then save again. Nothing was changed."),
        )


class ScheduleNotFoundError(KvmBackupError):
    """No schedule has that id, or more than one begins with it."""

    code = "schedule-not-found"
    exit_code = EXIT_NOT_FOUND


class SchedulesFileError(KvmBackupError):
    """scheduled_backups.json cannot be read; it is left as it is."""

    code = "schedules-file"


class RunNotFoundError(KvmBackupError):
    """No run has that id, or more than one begins with it."""

    code = "run-not-found"
    exit_code = EXIT_NOT_FOUND


class AlertNotFoundError(KvmBackupError):
    """There is no alert of that id."""

    code = "alert-not-found"
    exit_code = EXIT_NOT_FOUND


class DatabaseError(KvmBackupError):
    """The database of runs cannot be reached or written."""

    code = "database"
    retryable = True


class NewerDatabaseError(DatabaseError):
    """The database was made by a newer version of this program."""

    code = "database-newer"
    retryable = False


class HookError(KvmBackupError):
    """A script before the run failed, so that nothing was begun."""

    code = "hook"


class InterruptedRunError(KvmBackupError):
    """The service was killed while the run was going on."""

    code = "interrupted"
    retryable = True


class ServiceRunningError(KvmBackupError):
    """Another process serves this state folder already."""

    code = "service-running"


class ListenError(KvmBackupError):
    """The dashboard cannot listen on the address and port of the settings."""

    code = "cannot-listen"


class ServiceManagerError(KvmBackupError):
    """systemd does not run here, or refused what it was asked."""

    code = "service-manager"


class DetachedError(KvmBackupError):
    """The command does not wait for the run any longer; the service goes on with it."""

    code = "detached"


class SettingsError(KvmBackupError):
    """The settings file or a KVM_BACKUP_… variable cannot be used."""

    code = "bad-settings"
    exit_code = EXIT_BAD_ARGUMENTS


class VmNotFoundError(KvmBackupError):
    """libvirt knows no VM of that name or UUID."""

    code = "vm-not-found"
    exit_code = EXIT_NOT_FOUND


class PointNotFoundError(KvmBackupError):
    """No restore point matches, or more than one does."""

    code = "point-not-found"
    exit_code = EXIT_NOT_FOUND


class RepositoryNotFoundError(KvmBackupError):
    """No repository of that name is configured, or its folder is not there."""

    code = "repository-not-found"
    exit_code = EXIT_NOT_FOUND


class TargetExistsError(KvmBackupError):
    """Something stands where the result would be written; it is left alone."""

    code = "target-exists"


class VmRunningError(KvmBackupError):
    """The VM must be off for this."""

    code = "vm-running"


class NotConfirmedError(KvmBackupError):
    """The user did not agree to a step that destroys something."""

    code = "not-confirmed"


class ForeignPointError(KvmBackupError):
    """The point at a remote, or one below it, was not shipped by this host, and nobody said that it is trusted."""

    code = "foreign-point"


class UserNotFoundError(KvmBackupError):
    """There is no user of that name."""

    code = "user-not-found"
    exit_code = EXIT_NOT_FOUND


class UserExistsError(KvmBackupError):
    """There is a user of that name already."""

    code = "user-exists"


class LastAdministratorError(KvmBackupError):
    """Nobody would be left who may manage accounts."""

    code = "last-administrator"


class WeakPasswordError(BadArgumentError):
    """A password that is too easy to guess."""

    code = "weak-password"


class InvitationError(KvmBackupError):
    """The link to choose a password was used, has expired, or was replaced by a newer one."""

    code = "invitation"


class TokenNotFoundError(KvmBackupError):
    """There is no API token with that id, or more than one begins with it."""

    code = "token-not-found"
    exit_code = EXIT_NOT_FOUND


class SignInError(KvmBackupError):
    """Name and password do not belong together, or the account is disabled."""

    code = "sign-in"


class TooManyAttemptsError(KvmBackupError):
    """Too many wrong passwords came from there, or for that account.

    `seconds` is how long to wait.
    """

    code = "too-many-attempts"
    retryable = True

    def __init__(self, seconds: int) -> None:
        super().__init__(
            phrase("too many attempts"), hint=phrase("Wait {seconds} seconds, then try again.", seconds=seconds)
        )
        self.seconds = seconds


class NotSignedInError(KvmBackupError):
    """Nobody is signed in, or the token is unknown, revoked or expired."""

    code = "not-signed-in"


class ForbiddenError(KvmBackupError):
    """The role of whoever asks is too low for this."""

    code = "forbidden"


class RequestTooLargeError(BadArgumentError):
    """A request holds more than any page or program of good will sends."""

    code = "request-too-large"


class ForgedRequestError(KvmBackupError):
    """A request that changes something does not come from a page of ours."""

    code = "forged-request"


# The host or the guest did not play along.


class HypervisorUnavailableError(KvmBackupError):
    """libvirtd does not answer, or the connection broke."""

    code = "hypervisor-unavailable"
    retryable = True


class HypervisorError(KvmBackupError):
    """libvirt or QEMU refused an operation."""

    code = "hypervisor-error"


class VmStuckError(HypervisorError):
    """libvirtd died while it began a backup of the VM, and takes that for one that goes on."""

    code = "vm-stuck"


class CheckpointUnusableError(HypervisorError):
    """The checkpoint an incremental would start from is gone, or its bitmap is missing or broken."""

    code = "checkpoint-unusable"


class BitmapIncompleteError(CheckpointUnusableError):
    """A disk changed where its bitmap, whole and recording, says that it did not."""

    code = "bitmap-incomplete"


class ToolMissingError(KvmBackupError):
    """A program that the host should have is not installed."""

    code = "tool-missing"


class ToolFailedError(KvmBackupError):
    """A program that was started ended with an error."""

    code = "tool-failed"


class RemoteUnreachableError(KvmBackupError):
    """The other server does not answer, or the link to it broke."""

    code = "remote-unreachable"
    retryable = True


class HostKeyError(KvmBackupError):
    """The other server's host key is not known here, or is not the one that was known."""

    code = "host-key"


class RemoteAccessError(KvmBackupError):
    """The other server refused the login, or the account may not do what was asked."""

    code = "remote-access"


class RemoteSetupError(KvmBackupError):
    """The other server lacks rsync or the folder, its rsync is too old, or its folder is the local repository."""

    code = "remote-setup"


class PointChangedError(KvmBackupError):
    """A point was consolidated or removed here while it was being shipped, or at a remote since that was read."""

    code = "point-changed"
    retryable = True


class EncryptionKeyError(KvmBackupError):
    """A key of age is missing, unusable, not the right one, or was never shown to decrypt."""

    code = "encryption-key"


class VmBusyError(KvmBackupError):
    """Another run, or another program's backup job, holds the VM."""

    code = "vm-busy"
    retryable = True


class VmStateChangedError(KvmBackupError):
    """The VM was shut down, started or killed while it was being read, or a disk was resized as the backup began."""

    code = "vm-state-changed"
    retryable = True


class SourceReadError(KvmBackupError):
    """Reading a disk failed half way."""

    code = "source-read"
    retryable = True


class UnsupportedDiskError(KvmBackupError):
    """The VM has nothing that can be saved, or a disk of a kind that is not supported."""

    code = "unsupported-disk"


class NoSpaceError(KvmBackupError):
    """A file system has, or would have, too little room left."""

    code = "no-space"
    retryable = True


class CancelledError(KvmBackupError):
    """The user or a signal ended the run."""

    code = "cancelled"


# What is stored is not what it should be.


class StorageError(KvmBackupError):
    """Reading or writing files failed (permissions, I/O errors)."""

    code = "storage"


class RepositoryFormatError(KvmBackupError):
    """The folder is not a repository, or of a version that this program does not know."""

    code = "repository-format"


class DamagedManifestError(KvmBackupError):
    """A manifest cannot be parsed, or does not match its own digest."""

    code = "damaged-manifest"


class DamagedPointError(KvmBackupError):
    """A file of a restore point is missing, changed or foreign."""

    code = "damaged-point"


class PointElsewhereError(KvmBackupError):
    """The images that a point is read from are in another repository only."""

    code = "point-elsewhere"


class BrokenChainError(KvmBackupError):
    """A restore point's parent is missing or is not the one it was made on."""

    code = "broken-chain"


class DamagedImageError(KvmBackupError):
    """A qcow2 file breaks the rules of its format, or uses what is not supported."""

    code = "damaged-image"
