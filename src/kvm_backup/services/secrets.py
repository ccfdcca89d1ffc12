"""Secrets that we hand out: 256 random bits, of which only the SHA-256 is kept.

They need no slow hash as passwords do, because nobody can try 2**256 of them.
"""

import hashlib
import secrets

_BYTES = 32
TOKEN_PREFIX = "kvmb_"  # noqa: S105 - tells people and scanners for leaked secrets what a token is
_LONGEST = 200


def new_secret() -> str:
    """43 characters that are safe in a URL, a cookie and a header."""
    return secrets.token_urlsafe(_BYTES)


def digest_of(secret: str) -> str:
    """What is kept of a secret; of one that was sent to us, too, whatever it holds."""
    return hashlib.sha256(secret[:_LONGEST].encode(errors="surrogatepass")).hexdigest()
