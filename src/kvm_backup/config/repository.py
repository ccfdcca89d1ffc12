"""[[repository]]: a folder on this host, or one on another server: a remote, which copies one of the former."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from kvm_backup.config.fields import AbsolutePath, Name, Table
from kvm_backup.config.retention import RetentionOverride
from kvm_backup.domain.bandwidth import BandwidthPlan, Hours, parse_rate
from kvm_backup.domain.errors import BadArgumentError, EncryptionKeyError
from kvm_backup.domain.keep_local import KeepLocal
from kvm_backup.repository.encryption.keys import check_recipient
from kvm_backup.repository.ssh.address import SshAddress

DEFAULT_REPOSITORY = "default"
_NOWHERE = "none"
"""What schedules say in the place of remotes' names."""
_REMOTES_ONLY = (
    "of",
    "keep_local",
    "bandwidth",
    "bandwidth_hours",
    "prune_url",
    "recipients",
    "identity_file",
)
_COPIES_ONLY = ("keep_local", "recipients")


def _address(url: str) -> str:
    try:
        return str(SshAddress.parse(url))
    except BadArgumentError as error:
        raise ValueError(error.message) from error


def _recipient(text: str) -> str:
    try:
        return check_recipient(text)
    except EncryptionKeyError as error:
        raise ValueError('must be the public key of an age identity: "age1…"') from error


Url = Annotated[str, AfterValidator(_address)]
Recipient = Annotated[str, AfterValidator(_recipient)]


class RepositorySettings(Table):
    """[[repository]]: a place where restore points are kept."""

    name: Name
    path: AbsolutePath | None = None
    url: Url | None = None
    of: Name | None = None
    keep_local: KeepLocal = KeepLocal.ALL
    bandwidth: Annotated[int | None, BeforeValidator(parse_rate)] = None
    bandwidth_hours: tuple[Annotated[Hours, BeforeValidator(Hours.parse)], ...] = ()
    prune_url: Url | None = None
    recipients: Annotated[tuple[Recipient, ...], Field(max_length=100)] = ()
    identity_file: AbsolutePath | None = None
    retention: RetentionOverride = RetentionOverride()

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        if (self.path is None) == (self.url is None):
            raise ValueError("must have exactly one of path and url")
        given = self.model_fields_set
        if self.url is None and (astray := [key for key in _REMOTES_ONLY if key in given]):
            raise ValueError(f"{astray[0]} is of no use without url")
        if self.of is None and (astray := [key for key in _COPIES_ONLY if key in given]):
            raise ValueError(f"{astray[0]} is of no use without of: nothing is shipped there")
        return self

    @property
    def address(self) -> SshAddress:
        """Of a remote: where it is."""
        assert self.url is not None, "a remote has a url"
        return SshAddress.parse(self.url)

    @property
    def prune_address(self) -> SshAddress:
        """Of a remote: the same folder through the account that may read and remove there."""
        return SshAddress.parse(self.prune_url) if self.prune_url else self.address

    @property
    def plan(self) -> BandwidthPlan:
        """How fast bytes may go there; its hours are meant in the zone of the settings."""
        return BandwidthPlan(self.bandwidth, self.bandwidth_hours)


def locals_of(repositories: Sequence[RepositorySettings], state_dir: Path) -> dict[str, Path]:
    """Folder by name; the default one lies in the state folder unless it is configured."""
    found = {one.name: one.path for one in repositories if one.path is not None}
    found.setdefault(DEFAULT_REPOSITORY, state_dir / "repository")
    return found


def remotes_of(repositories: Sequence[RepositorySettings]) -> dict[str, RepositorySettings]:
    return {one.name: one for one in repositories if one.url is not None}


def check_together(repositories: Sequence[RepositorySettings], default: str) -> None:
    """Raises ValueError when they do not fit together, or the default one is a remote."""
    names = [one.name for one in repositories]
    if len(set(names)) != len(names):
        raise ValueError("two repositories have the same name")
    remotes = remotes_of(repositories)
    urls = [one.url for one in remotes.values()]
    if len(set(urls)) != len(urls):
        raise ValueError("two repositories have the same url")
    if DEFAULT_REPOSITORY in remotes:
        raise ValueError(
            f"{DEFAULT_REPOSITORY!r} is the name of a repository on this host: give it a path, not a url"
        )
    if _NOWHERE in remotes:
        raise ValueError(
            f"{_NOWHERE!r} cannot be the name of a repository with a url: schedules say it for no remote"
        )
    if default in remotes:
        raise ValueError(f"default_repository {default!r} has a url: backups are written on this host, then shipped")
    local = {DEFAULT_REPOSITORY, *names} - remotes.keys()
    for remote in remotes.values():
        if remote.of in remotes:
            raise ValueError(f"{remote.name!r} is of {remote.of!r}, which is a remote itself")
        if remote.of is not None and remote.of not in local:
            raise ValueError(f"{remote.name!r} is of {remote.of!r}, and no repository is called that")


def check_ship_to(names: Sequence[str], remotes: dict[str, RepositorySettings]) -> None:
    """Raises ValueError when one of them is no remote that anything is shipped to."""
    for name in names:
        if name not in remotes:
            raise ValueError(f"no repository with a url is called {name!r}")
        if remotes[name].of is None:
            raise ValueError(f"nothing is shipped to {name!r}: it has no of")
