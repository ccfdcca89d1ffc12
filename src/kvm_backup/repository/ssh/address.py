"""Where a repository on another server is: ssh://user@host[:port]/path.

An account that rrsync locks in sees its own folder as `/`, so that `ssh://user@host/` may be a whole address.

What is accepted is narrow on purpose. Each part becomes a word on the command lines of ssh and rsync, and the path
one on a command line of the other server: nothing that begins with a dash, no character that means something to a
shell.
"""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import Self

from kvm_backup.domain.errors import BadArgumentError
from kvm_backup.domain.phrase import phrase

SCHEME = "ssh://"
_USER = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}"
_HOST = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}"
_PART = r"[\w.+=@,][\w.+=@,-]{0,254}"
_PATH_MAX = 1024


@dataclass(frozen=True, slots=True)
class SshAddress:
    """A folder on a server. `user` and `port` are None where ssh's own configuration decides.

    `host` is a name (also a Host of ssh's configuration) or an IPv6 address without brackets.
    """

    host: str
    path: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises BadArgumentError, whose message never repeats what may be a password."""
        if not url.startswith(SCHEME):
            raise _unfit(phrase("it does not begin with {scheme}", scheme=SCHEME))
        authority, slash, rest = url.removeprefix(SCHEME).partition("/")
        login, at, place = authority.rpartition("@")
        if ":" in login:
            raise _unfit(phrase("it holds a password"))
        if at and not re.fullmatch(_USER, login):
            raise _unfit(phrase("{user!r} is no user's name", user=login))
        host, port = _host_and_port(place)
        if not slash:
            raise _unfit(phrase("it names no folder"))
        return cls(host, _path(rest), login or None, port)

    def __str__(self) -> str:
        login = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        return f"{SCHEME}{login}{self._bracketed}{port}{self.path}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def login_words(self) -> list[str]:
        """What ssh is told of user and port."""
        user = ["-l", self.user] if self.user else []
        return [*user, *(["-p", str(self.port)] if self.port else [])]

    def below(self, *parts: str) -> str:
        """An absolute path on the server; the parts are names that were checked."""
        return "/".join([self.path.rstrip("/"), *parts])

    def rsync_place(self, path: str) -> str:
        """A path on the server as rsync's argument."""
        return f"{self._bracketed}:{path}"


def _host_and_port(place: str) -> tuple[str, int | None]:
    if place.startswith("["):
        host, closed, rest = place[1:].partition("]")
        try:
            known = closed == "]" and IPv6Address(host).scope_id is None
        except AddressValueError:
            known = False
        separator, digits = rest[:1], rest[1:]
        known = known and separator in ("", ":")
    else:
        host, separator, digits = place.partition(":")
        known = re.fullmatch(_HOST, host) is not None
    if not known:
        raise _unfit(phrase("{host!r} is no host", host=place))
    if not separator:
        return host, None
    if not re.fullmatch(r"[0-9]{1,5}", digits) or not 1 <= int(digits) <= 65535:
        raise _unfit(phrase("{port!r} is no port", port=digits))
    return host, int(digits)


def _path(rest: str) -> str:
    parts = [part for part in rest.split("/") if part]
    for part in parts:
        if part in (".", "..") or not re.fullmatch(_PART, part):
            raise _unfit(phrase("{part!r} cannot be part of the path", part=part))
    path = "/" + "/".join(parts)
    if len(path.encode()) > _PATH_MAX:
        raise _unfit(phrase("its path is too long"))
    return path


def _unfit(cause: str) -> BadArgumentError:
    return BadArgumentError(
        phrase("this is no address of a repository: {cause}", cause=cause),
        hint=phrase(
            "Write ssh://user@host/folder or ssh://user@host:port/folder, with letters, digits and . _ + = @ , - in "
            "the folder's name."
        ),
    )
