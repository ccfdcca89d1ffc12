"""One OpenSSH connection to a server, shared by all that is done there.

The user's own ssh does the work, so that ~/.ssh/config, agent, certificates and jump hosts count. A first ssh holds
the connection (ControlMaster); commands and rsync go through its socket, without another login. Should it end, the
others log in by themselves. It ends with the thread that opened it, even when that is killed.
"""

import shlex
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from kvm_backup import process
from kvm_backup.domain.errors import KvmBackupError, RemoteUnreachableError, ToolFailedError
from kvm_backup.domain.phrase import phrase
from kvm_backup.process import Completed, Program
from kvm_backup.repository.ssh.address import SshAddress
from kvm_backup.repository.ssh.failures import SSH_FAILED, LoginRefusedError, failure
from kvm_backup.repository.ssh.own_keys import how_to_be_let_in
from kvm_backup.repository.ssh.private_folder import private_folder

_POLL = 0.05
_END_POLL = 0.01
_END_SECONDS = 5.0
_LINE = 200
"""Characters."""
LOGIN_SECONDS = 60
PATIENCE = 1800.0
"""Seconds that a command on the server may take, beside those for the files that it reads: it may wait until all is
on disk there. A dead link is noticed long before; that the shell or a disk there hangs, nothing else tells."""
_SLOWEST = 10 << 20
"""Bytes a second that a disk there reads at least."""


def patience_for(size: int) -> float:
    """Seconds that a command may take that reads so many bytes there."""
    return PATIENCE + size / _SLOWEST


class SshConnection:
    """Open while the `with` block lasts.

    `config` is another ssh configuration file, `login_timeout` seconds until the login must be done, `alive_interval`
    seconds between questions whether the server is there; after three without an answer the connection is given up.
    """

    def __init__(
        self,
        address: SshAddress,
        *,
        config: Path | None = None,
        login_timeout: int = LOGIN_SECONDS,
        alive_interval: int = 15,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        self.address = address
        self._config = config
        self._login_timeout = login_timeout
        self._alive_interval = alive_interval
        self._watch = watch
        self._open = ExitStack()
        self._folder: Path | None = None
        self._master: Program | None = None

    def __enter__(self) -> Self:
        """Raises RemoteUnreachableError, HostKeyError, RemoteAccessError, ToolMissingError, what `watch` raises."""
        self._folder = self._open.enter_context(private_folder())
        try:
            self._log_in()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def run(
        self,
        script: str,
        *arguments: str,
        watch: Callable[[], None] = lambda: None,
        timeout: float | None = None,
    ) -> Completed:
        """Run a POSIX shell script on the server; `arguments` are its $1, $2, … whatever they hold.

        The status is the script's own and not judged. Raises RemoteUnreachableError after `timeout` seconds (None:
        `PATIENCE`), it and its like when ssh itself fails (status 255), and what `watch` raises.
        """
        return self.ask("sh", "-c", script, "sh", *arguments, watch=watch, timeout=timeout)

    def ask(self, *command: str, watch: Callable[[], None] = lambda: None, timeout: float | None = None) -> Completed:
        """Run a command on the server, each of its words as it is. The rest is as of `run`."""
        words = [*self._ssh("no"), shlex.join(command)]
        seconds = PATIENCE if timeout is None else timeout
        try:
            done = process.run(words, timeout=seconds, check=False, meanwhile=watch, own_session=True)
        except ToolFailedError as error:
            raise self._hangs(seconds) from error
        if done.status == SSH_FAILED:
            raise self.failure(done)
        return done

    def said_by_itself(self) -> str:
        """The first line that the account prints when it is asked for nothing; empty when it is silent, or away."""
        with suppress(KvmBackupError):
            said = self.run(":", timeout=_END_SECONDS).stdout.strip()
            return said.splitlines()[0][:_LINE] if said else ""
        return ""

    @property
    def rsync_shell(self) -> str:
        """What rsync's -e takes. It splits at spaces, and knows quotes but no backslashes."""
        words = [*self._options("no"), *(["-p", str(self.address.port)] if self.address.port else [])]
        words += ["-l", self.address.user] if self.address.user else []
        return " ".join("'" + word.replace("'", "''") + "'" for word in words)

    def _hangs(self, seconds: float) -> RemoteUnreachableError:
        return RemoteUnreachableError(
            phrase(
                "{place}: the server is there, but a command did not end within {seconds:.0f} s",
                place=self.address,
                seconds=seconds,
            ),
            hint=phrase(
                "Look at that server: its disk may hang, or a mount that is gone. What arrived stays, and the "
                "transfer goes on from there."
            ),
        )

    def failure(self, done: Completed) -> KvmBackupError:
        """The error for an ssh or rsync that ended badly."""
        return failure(str(self.address), done)

    def _log_in(self) -> None:
        # Without a terminal: the ssh of a jump host knows nothing of BatchMode, and would ask there.
        self._master = process.start([*self._ssh("yes", "-N")], own_session=True, ends_with_us=True)
        deadline = time.monotonic() + self._login_timeout
        # The socket appears once the login is done.
        while not self._socket.exists():
            self._watch()
            if self._master.poll() is not None:
                said = process.finish(self._master, _END_SECONDS)
                raise self._with_advice(self.failure(Completed(SSH_FAILED, "", said)))
            if time.monotonic() >= deadline:
                raise RemoteUnreachableError(
                    phrase(
                        "{place}: the login was not done within {seconds} s",
                        place=self.address,
                        seconds=self._login_timeout,
                    ),
                    hint=phrase(
                        "The server is overloaded, or something on the way holds the connection. Try ssh by hand."
                    ),
                )
            time.sleep(_POLL)

    def _with_advice(self, error: KvmBackupError) -> KvmBackupError:
        if not isinstance(error, LoginRefusedError):
            return error
        return LoginRefusedError(error.message, hint=how_to_be_let_in(self.address, self._config))

    def _close(self) -> None:
        if self._master is not None:
            deadline = time.monotonic() + _END_SECONDS
            while self._master.poll() is None and time.monotonic() < deadline:
                # More than once: ssh misses a signal that comes just before it waits for something.
                self._master.terminate()
                time.sleep(_END_POLL)
            with suppress(ToolFailedError):
                process.finish(self._master, _END_SECONDS)
            self._master = None
        self._open.close()
        self._folder = None

    @property
    def _socket(self) -> Path:
        assert self._folder is not None, "used outside of its with block"
        return self._folder / "s"

    def _ssh(self, master: str, *flags: str) -> list[str]:
        return [*self._options(master), *flags, *self.address.login_words, "--", self.address.host]

    def _options(self, master: str) -> list[str]:
        options = {
            "ControlMaster": master,
            "ControlPath": str(self._socket),
            "ControlPersist": "no",
            "ConnectTimeout": str(min(20, self._login_timeout)),
            "ServerAliveInterval": str(self._alive_interval),
            "ServerAliveCountMax": "3",
            **FIRM_OPTIONS,
        }
        return ["ssh", *configured(self._config), *(f"-o{name}={value}" for name, value in options.items())]


FIRM_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "LogLevel": "ERROR",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "ForkAfterAuthentication": "no",
    "StdinNull": "no",
    "Compression": "no",
}
"""What the user's configuration does not change: never a question, no forwarding, no other command than ours."""


def configured(config: Path | None) -> list[str]:
    """ssh's words for another configuration file."""
    return ["-F", str(config)] if config else []
