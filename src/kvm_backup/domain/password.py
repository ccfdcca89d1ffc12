"""Which passwords are taken: long ones, of any characters, that are not among the first that anybody tries."""

import unicodedata

from kvm_backup.domain.errors import WeakPasswordError
from kvm_backup.domain.phrase import phrase

SHORTEST = 12
LONGEST = 1000
"""So that nobody can make the server hash a book."""
_FEWEST_LETTERS = 4
"""How many different characters there must be: aaaaaaaaaaaa has one."""
_FIRST_TRIED = """
    123456789012 1234567890123 12345678901234 123456789123 123123123123 111111111111 000000000000 121212121212
    112233445566 987654321098 012345678901 qwertyuiop12 qwertyuiop123 qwertyuiopas qwertyuiopasdf 1q2w3e4r5t6y
    1qaz2wsx3edc q1w2e3r4t5y6 azertyuiop12 azertyuiop123 azertyuiopqs azertyuiopqsdf password1234 password12345
    passwordpassword password123456 passw0rd1234 p@ssw0rd1234 p@ssword1234 motdepasse12 motdepasse123 motdepasse1234
    motdepassemotdepasse administrator administrateur administrator1 administrateur1 adminadminadmin admin1234567
    changemechangeme changeme1234 changezmoi123 letmeinletmein welcome12345 welcome123456 bienvenue123 bonjour12345
    iloveyou1234 jetaime12345 abcdefghijkl abcdefghijklm abcdef123456 abcd12345678 abc123456789 kvmbackup1234
    kvm-backup-kvm-backup kvmbackupkvmbackup sauvegarde123 sauvegarde1234 virtualmachine libvirt12345 rootrootroot
    correcthorsebatterystaple
"""
_COMMON = frozenset(_FIRST_TRIED.split()) | {"correct horse battery staple"}


def normalised(password: str) -> str:
    """The password in one form, because keyboards and systems write an é in one character or in two.

    Raises WeakPasswordError when it holds what is no text.
    """
    try:
        password.encode()
    except UnicodeEncodeError:
        raise WeakPasswordError(
            phrase("the password is no valid text"), hint=phrase("Use characters of UTF-8.")
        ) from None
    return unicodedata.normalize("NFKC", password)


def check_password(password: str, user_name: str) -> None:
    """Raises WeakPasswordError when a new password cannot be taken."""
    password = normalised(password)
    hint = phrase("Use {count} characters or more, such as a sentence that only you would think of.", count=SHORTEST)
    if len(password) < SHORTEST:
        raise WeakPasswordError(phrase("the password is too short"), hint=hint)
    if len(password) > LONGEST:
        raise WeakPasswordError(
            phrase("the password is too long"), hint=phrase("Use {count} characters at most.", count=LONGEST)
        )
    plain = password.casefold()
    repeated = user_name.casefold()
    if repeated and not plain.replace(repeated, "").strip(" 0123456789.-_!"):
        raise WeakPasswordError(phrase("the password is the user's name"), hint=hint)
    if plain in _COMMON or len(set(plain)) < _FEWEST_LETTERS:
        raise WeakPasswordError(phrase("the password is among the first that anybody tries"), hint=hint)
