"""What ssh and rsync print, as the error that a user gets."""

import pytest

from kvm_backup.domain import errors
from kvm_backup.process import Completed
from kvm_backup.repository.ssh.failures import (
    FolderMissingError,
    LoginRefusedError,
    NoisyError,
    Side,
    failure,
    local_failure,
)


@pytest.mark.parametrize(
    ("status", "said", "error"),
    [
        (255, "ssh: Could not resolve hostname nas: Name or service not known", errors.RemoteUnreachableError),
        (255, "ssh: connect to host nas port 22: No route to host", errors.RemoteUnreachableError),
        (255, "Timeout, server 10.0.0.1 not responding.", errors.RemoteUnreachableError),
        (255, "", errors.RemoteUnreachableError),
        (
            12,
            "rsync: connection unexpectedly closed (5 bytes received so far) [sender]",
            errors.RemoteUnreachableError,
        ),
        (255, "root@nas: Permission denied (publickey,password).", LoginRefusedError),
        (23, 'rsync: [generator] mkdir "/srv/a" failed: Permission denied (13)', errors.RemoteAccessError),
        (11, 'rsync: [receiver] write failed on "/a": No space left on device (28)', errors.NoSpaceError),
        (11, 'rsync: [receiver] write failed on "/a": Disk quota exceeded (122)', errors.NoSpaceError),
        (127, "bash: line 1: rsync: command not found", errors.RemoteSetupError),
        (1, "rsync: on remote machine: --mkpath: unknown option", errors.RemoteSetupError),
        (11, 'rsync: [Receiver] mkdir "/a" failed: Read-only file system (30)', errors.RemoteSetupError),
        (
            12,
            "rrsync error: Another instance of rrsync is already accessing this directory.",
            errors.RemoteUnreachableError,
        ),
        (
            12,
            "kvm-backup-add-only: busy: another transfer of this point is under way",
            errors.RemoteUnreachableError,
        ),
        (12, "kvm-backup-add-only: no such folder: /srv/a", FolderMissingError),
        (12, "kvm-backup-add-only: not allowed: this key only adds points", errors.RemoteAccessError),
        (12, "/usr/bin/rrsync error: reading from write-only server is not allowed", errors.RemoteAccessError),
        (2, "protocol version mismatch -- is your shell clean?", NoisyError),
        (255, "@@@\n@ WARNING: REVOKED HOST KEY DETECTED! @\nHost key verification failed.", errors.HostKeyError),
        (23, "something that nobody has seen before", errors.ToolFailedError),
    ],
)
def test_a_failure_is_told_as_what_it_is(status: int, said: str, error: type[errors.KvmBackupError]) -> None:
    told = failure("ssh://nas/srv", Completed(status, "", said))
    assert type(told) is error
    assert "ssh://nas/srv" in told.message


def test_a_changed_host_key_is_not_taken_for_an_unknown_one() -> None:
    said = "@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\n@@@\nHost key verification failed."
    told = failure("ssh://nas/srv", Completed(255, "", said))
    assert isinstance(told, errors.HostKeyError)
    assert "another host key" in told.message


def test_a_full_disk_counts_more_than_the_link_that_ended_for_it() -> None:
    said = (
        'rsync: [receiver] write failed on "/a": No space left on device (28)\n'
        "rsync: connection unexpectedly closed (5 bytes received so far) [sender]\n"
    )
    assert isinstance(failure("ssh://nas/srv", Completed(12, "", said)), errors.NoSpaceError)


@pytest.mark.parametrize(
    ("here", "said", "error"),
    [
        (
            Side.SENDER,
            'rsync: [sender] change_dir "/a" failed: No such file or directory (2)',
            errors.PointChangedError,
        ),
        (
            Side.SENDER,
            'rsync: [sender] link_stat "/a" failed: No such file or directory (2)',
            errors.PointChangedError,
        ),
        (Side.SENDER, 'file has vanished: "/a/vda.qcow2"', errors.PointChangedError),
        (Side.SENDER, 'rsync: [sender] read errors mapping "/a": No data available (61)', errors.PointChangedError),
        (Side.SENDER, 'rsync: [sender] read errors mapping "/a": Input/output error (5)', errors.StorageError),
        (Side.SENDER, 'rsync: [sender] send_files failed to open "/a": Permission denied (13)', errors.StorageError),
        (Side.RECEIVER, 'rsync: [receiver] write failed on "/a": No space left on device (28)', errors.NoSpaceError),
        (Side.RECEIVER, 'rsync: [generator] mkdir "/a" failed: Permission denied (13)', errors.StorageError),
        (Side.RECEIVER, 'rsync: [Receiver] mkdir "/a" failed: Read-only file system (30)', errors.StorageError),
    ],
)
def test_what_fails_on_this_host_is_not_blamed_on_the_server(
    here: Side, said: str, error: type[errors.KvmBackupError]
) -> None:
    assert type(local_failure(here, Completed(23, "", f"{said}\nrsync error: some files (code 23)\n"))) is error


@pytest.mark.parametrize(
    ("here", "said"),
    [
        (Side.SENDER, 'rsync: [receiver] write failed on "/a": No space left on device (28)'),
        (Side.SENDER, 'rsync: [generator] mkdir "/a" failed: Permission denied (13)'),
        (Side.SENDER, "rsync: [sender] write error: Broken pipe (32)"),
        (Side.SENDER, "rsync: connection unexpectedly closed (5 bytes received so far) [sender]"),
        (Side.RECEIVER, 'rsync: [sender] change_dir "/srv" failed: No such file or directory (2)'),
        (Side.RECEIVER, 'rsync: [sender] send_files failed to open "/a": Permission denied (13)'),
        (Side.RECEIVER, 'file has vanished: "/srv/vda.qcow2"'),
        (Side.SENDER, 'rsync: [receiver] mkdir "/srv/rsync: [sender] x" failed: Permission denied (13)'),
    ],
)
def test_what_fails_on_the_server_is_not_blamed_on_this_host(here: Side, said: str) -> None:
    assert local_failure(here, Completed(23, "", said)) is None
