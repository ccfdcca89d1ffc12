"""The secret part of the names that arriving points have on the server.

A thief of a key that only adds can neither list nor remove there, but he can put links where a name is known before
it is used, and what is written to such a name goes elsewhere.
"""

import re
import secrets
from pathlib import Path

from kvm_backup.domain.errors import DamagedPointError
from kvm_backup.repository import durable

_SHAPE = re.compile("[0-9a-f]{32}")
_FILE = ".token"
_BYTES_MAX = 64


def new_token() -> str:
    """A name that nobody guesses."""
    return secrets.token_hex(16)


def kept_token(mirror: Path) -> str:
    """The token that is kept with a remote's mirror, made when there is none; for a mirror that is not there, one
    that is not kept. Raises StorageError, NoSpaceError."""
    file = mirror / _FILE
    try:
        kept = durable.read_limited(file, _BYTES_MAX).decode("ascii", "replace")
    except DamagedPointError:
        kept = ""
    if _SHAPE.fullmatch(kept):
        return kept
    token = new_token()
    if mirror.is_dir():
        durable.replace_content(file, token.encode())
    return token
