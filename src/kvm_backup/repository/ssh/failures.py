"""What ssh and rsync say when they fail, in our words.

Both tell causes only as text: OpenSSH ends with 255 for all of them, rsync with a few codes (rsync(1), EXIT VALUES).
The texts are matched in the order of the list, the surest first; both print them in English whatever the language.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from kvm_backup.domain.errors import (
    HostKeyError,
    KvmBackupError,
    NoSpaceError,
    PointChangedError,
    RemoteAccessError,
    RemoteSetupError,
    RemoteUnreachableError,
    RepositoryFormatError,
    StorageError,
    ToolFailedError,
)
from kvm_backup.domain.phrase import phrase
from kvm_backup.process import Completed, last_line

SSH_FAILED = 255
_LINK_BROKE = {10, 12, 30, 35, SSH_FAILED}
"""rsync: socket, protocol stream, timeouts; and ssh's own status."""


_LOOK_THERE = phrase(
    "Look at that server: its disk may hang, or a mount that is gone. What arrived stays, and the transfer goes on "
    "from there."
)


class HostKeyUnknownError(HostKeyError):
    """No key of the server is known here."""


class LoginRefusedError(RemoteAccessError):
    """No key of this user is taken there."""


class FolderMissingError(RemoteSetupError):
    """The folder on the server is not there."""


class NoisyError(RemoteSetupError):
    """Something other than rsync answers."""


@dataclass(frozen=True, slots=True)
class _Cause:
    pattern: str
    error: Callable[[str, str], KvmBackupError]


class Side(StrEnum):
    """Which of rsync's two programs runs on this host; each of its complaints names the one that makes it."""

    SENDER = "sender"
    RECEIVER = "receiver|generator"


def linked(place: object, folder: str) -> RepositoryFormatError:
    """The error for a VM's folder on the server that is none of its own."""
    return RepositoryFormatError(
        phrase("{place}: {folder} is a link, or no folder", place=place, folder=folder),
        hint=phrase(
            "We make none: somebody else did, perhaps with a stolen key. Remove it there; nothing was changed."
        ),
    )


def local_failure(here: Side, done: Completed) -> KvmBackupError | None:
    """The error for an rsync that ended badly for a cause on this host; None when the cause is not here."""
    complaints = re.findall(rf"^rsync: \[(?:{here})\] (.*)$", done.stderr, re.IGNORECASE | re.MULTILINE)
    if here is Side.SENDER:
        complaints += re.findall(r"^(file has vanished: .*)$", done.stderr, re.MULTILINE)
    for cause in _CAUSES_HERE:
        for line in complaints:
            if re.search(cause.pattern, line, re.IGNORECASE):
                return cause.error(here, line[:300])
    return None


def failure(place: str, done: Completed) -> KvmBackupError:
    """The error for a program that ended badly; `place` is the server's address as the user wrote it."""
    said = f"{done.stderr}\n{done.stdout}" if done.status == SSH_FAILED else done.stderr
    for cause in _CAUSES:
        if re.search(cause.pattern, said, re.IGNORECASE):
            return cause.error(place, _line_with(cause.pattern, said))
    line = last_line(said) or f"status {done.status}"
    if done.status in _LINK_BROKE:
        return _unreachable(place, line)
    return ToolFailedError(
        phrase("{place}: {line}", place=place, line=line),
        hint=phrase("Try it by hand: ssh to that server, and rsync a small file into that folder."),
    )


def _line_with(pattern: str, said: str) -> str:
    found = [line.strip() for line in said.splitlines() if re.search(pattern, line, re.IGNORECASE)]
    return found[0][:300] if found else ""


def _host_key_changed(place: str, _line: str) -> KvmBackupError:
    return HostKeyError(
        phrase("{place}: the server shows another host key than the one that is known", place=place),
        hint=phrase(
            "It was installed anew, or somebody stands in between. Compare its fingerprint at its console; only then "
            "forget the old key with 'ssh-keygen -R' and add the repository again."
        ),
    )


def _host_key_revoked(place: str, _line: str) -> KvmBackupError:
    return HostKeyError(
        phrase("{place}: the server shows a host key that is marked as revoked here", place=place),
        hint=phrase("Whoever marked it had a reason: ask before you give that server another key."),
    )


def _host_key_unknown(place: str, _line: str) -> KvmBackupError:
    return HostKeyUnknownError(
        phrase("{place}: the server's host key is not known here", place=place),
        hint=phrase("Add the repository with 'kvm-backup repository add': it shows the fingerprint and asks."),
    )


def _refused(place: str, line: str) -> KvmBackupError:
    return LoginRefusedError(
        phrase("{place}: the server refused the login ({line})", place=place, line=line),
        hint=phrase(
            "Check that the public key is in the account's authorized_keys, and which key ssh offers: ssh -v. "
            "KVM Backup asks for no password; a key with a passphrase needs an agent."
        ),
    )


def _not_allowed(place: str, line: str) -> KvmBackupError:
    return RemoteAccessError(
        phrase("{place}: the account may not do that ({line})", place=place, line=line),
        hint=phrase("Check the owner of the folder there, and what its authorized_keys lets this key do."),
    )


def _only_adds(place: str, line: str) -> KvmBackupError:
    return RemoteAccessError(
        phrase("{place}: the account may only add ({line})", place=place, line=line),
        hint=phrase("Give the settings of this repository a prune_url: an account that may read and remove there."),
    )


def _busy(place: str, line: str) -> KvmBackupError:
    return RemoteUnreachableError(
        phrase("{place}: the account serves another transfer ({line})", place=place, line=line),
        hint=phrase(
            "It may be one that was cut off and not noticed there yet: it is tried again. Where rrsync locks the "
            "folder, its option -no-lock allows several."
        ),
    )


def _full(place: str, line: str) -> KvmBackupError:
    return NoSpaceError(
        phrase("{place}: no space left on the server ({line})", place=place, line=line),
        hint=phrase(
            "Free space there, or have fewer points stay there (its retention) and prune it; what arrived stays, and "
            "the transfer goes on from there."
        ),
    )


def _no_rsync(place: str, line: str) -> KvmBackupError:
    return RemoteSetupError(
        phrase("{place}: rsync cannot be started on the server ({line})", place=place, line=line),
        hint=phrase("Install it there: apt-get install rsync. The account's PATH must hold it."),
    )


def _old_rsync(place: str, line: str) -> KvmBackupError:
    return RemoteSetupError(
        phrase("{place}: the server's rsync does not know what is asked of it ({line})", place=place, line=line),
        hint=phrase("Install rsync 3.2.4 or newer there; for an account that only adds, 3.3 or newer."),
    )


def noisy(place: object, text: str) -> NoisyError:
    """The error for an account that prints this at each command."""
    return NoisyError(
        phrase(
            "{place}: the account there prints text of its own, which rsync takes for an answer: {text}",
            place=place,
            text=text,
        ),
        hint=phrase(
            "Let its login scripts (.bashrc and the like) be silent when nobody is at a terminal. Should the text "
            "say that nobody is let in, the account needs another login shell than nologin."
        ),
    )


def _noisy(place: str, line: str) -> KvmBackupError:
    return noisy(place, line)


def _no_folder(place: str, line: str) -> KvmBackupError:
    return FolderMissingError(
        phrase("{place}: the folder cannot be used ({line})", place=place, line=line),
        hint=phrase("Make it on the server, or correct the address; a disk of its own may need mounting there."),
    )


def _read_only(place: str, line: str) -> KvmBackupError:
    return RemoteSetupError(
        phrase("{place}: the server's file system is read-only or broken ({line})", place=place, line=line),
        hint=phrase("Look at the kernel's log on that server. What arrived before stays."),
    )


def _unreachable(place: str, line: str) -> KvmBackupError:
    return RemoteUnreachableError(
        phrase("{place} cannot be reached: {line}", place=place, line=line),
        hint=phrase("Check the network, the name and the port. A transfer that was cut goes on where it was."),
    )


def _silent(place: str, line: str) -> KvmBackupError:
    return RemoteUnreachableError(
        phrase("{place}: the server's rsync does nothing any more ({line})", place=place, line=line),
        hint=_LOOK_THERE,
    )


def stands_still(place: str, seconds: int) -> RemoteUnreachableError:
    """The error for a server that is there, and takes nothing of what is sent."""
    return RemoteUnreachableError(
        phrase("{place}: the server's rsync took nothing for {seconds} s", place=place, seconds=seconds),
        hint=_LOOK_THERE,
    )


def _ended_at_once(place: str, line: str) -> KvmBackupError:
    return RemoteUnreachableError(
        phrase("{place}: what answers there ended before it said anything ({line})", place=place, line=line),
        hint=phrase(
            "The link may have broken just then; it is tried again. Should it stay so, look at what that account's "
            "login shell, or the command in its authorized_keys, does."
        ),
    )


def _vanished_here(here: str, line: str) -> KvmBackupError:
    if here == Side.SENDER:
        return PointChangedError(
            phrase("a file went away here while it was being shipped ({line})", line=line),
            hint=phrase("What is there now is shipped by the next try; nothing is lost."),
        )
    return _broken_here(here, line)


def _full_here(_here: str, line: str) -> KvmBackupError:
    return NoSpaceError(
        phrase("no space left on this host ({line})", line=line),
        hint=phrase(
            "Free space on that file system, or name a larger scratch folder; what arrived is taken up again."
        ),
    )


def _broken_here(_here: str, line: str) -> KvmBackupError:
    return StorageError(
        phrase("this host's own files fail: {line}", line=line),
        hint=phrase("Check that they are on a healthy file system and can be used by this user."),
    )


_CAUSES_HERE = (
    _Cause(r"no space left on device|disk quota exceeded", _full_here),
    _Cause(r"permission denied|operation not permitted|input/output error|read-only file system", _broken_here),
    _Cause(r"no such file|no data available|has vanished|not a directory", _vanished_here),
)
_CAUSES = (
    _Cause(r"revoked host key|host key .* revoked|marked as revoked", _host_key_revoked),
    _Cause(r"host identification has changed|host key for .* has changed", _host_key_changed),
    _Cause(r"no .*host key is known|host key verification failed", _host_key_unknown),
    _Cause(r"permission denied \([a-z,-]+\)|too many authentication failures|no supported authentication", _refused),
    _Cause(r"no space left on device|disk quota exceeded", _full),
    _Cause(
        r"rsync: (command )?not found|rsync: no such file|sh: .*rsync.*not found|unknown command.*rsync", _no_rsync
    ),
    _Cause(r"another instance of rrsync|kvm-backup-add-only: busy", _busy),
    _Cause(r"kvm-backup-add-only: no such folder", _no_folder),
    _Cause(r"write-only server|kvm-backup-add-only: not allowed", _only_adds),
    # rrsync's words for a folder that is missing.
    _Cause(r"rrsync error: post-realpath open failed.*no such file", _no_folder),
    _Cause(r"is your shell clean|protocol incompatibility", _noisy),
    _Cause(r"on remote machine: |unknown option|unrecognized option", _old_rsync),
    _Cause(
        r"rrsync error|read-only server|option .* has been disabled|does not run rsync",
        _not_allowed,
    ),
    _Cause(r"read-only file system|input/output error", _read_only),
    _Cause(r"(change_dir|mkdir|chdir|link_stat|cd:).*(no such file|not a directory)", _no_folder),
    _Cause(r"permission denied|operation not permitted", _not_allowed),
    _Cause(
        r"could not resolve|connection (timed out|refused|reset|closed)|no route to host|network is unreachable|"
        r"broken pipe|not responding|banner exchange|lost connection",
        _unreachable,
    ),
    _Cause(r"io timeout after|timeout in data send/receive", _silent),
    _Cause(r"connection unexpectedly closed \(0 bytes", _ended_at_once),
)
