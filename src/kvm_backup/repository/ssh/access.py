"""One account on the server, logged in when it is first needed."""

from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from functools import cached_property
from pathlib import Path

from kvm_backup.domain.bandwidth import BandwidthPlan
from kvm_backup.repository.ssh.account import Account, account_of
from kvm_backup.repository.ssh.address import SshAddress
from kvm_backup.repository.ssh.connection import LOGIN_SECONDS, SshConnection
from kvm_backup.repository.ssh.transfer import Transfer, Watch


class Access:
    """`open` holds the connection until it is closed itself. The rest is as of `Remote`."""

    def __init__(
        self,
        address: SshAddress,
        open_connections: ExitStack,
        *,
        config: Path | None,
        plan: BandwidthPlan,
        now: Callable[[], datetime],
        watch: Watch,
        token: str,
        login_timeout: int = LOGIN_SECONDS,
    ) -> None:
        self.address = address
        self._open = open_connections
        self._config = config
        self._plan = plan
        self._now = now
        self._watch = watch
        self._token = token
        self._login_timeout = login_timeout

    @cached_property
    def transfer(self) -> Transfer:
        """Raises RemoteUnreachableError, HostKeyError, RemoteAccessError, ToolMissingError, what the watch raises."""
        connection = SshConnection(
            self.address, config=self._config, login_timeout=self._login_timeout, watch=self._watch.check
        )
        return Transfer(
            self._open.enter_context(connection),
            plan=self._plan,
            now=self._now,
            watch=self._watch,
            token=self._token,
        )

    @cached_property
    def account(self) -> Account:
        """What it allows, found out once. Raises as `transfer`."""
        return account_of(self.transfer.connection, self._watch.check)

    @property
    def has_shell(self) -> bool:
        return self.account is Account.SHELL
