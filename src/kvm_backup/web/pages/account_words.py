"""What is said about accounts on several pages."""

from kvm_backup.domain import account
from kvm_backup.domain.account import Role
from kvm_backup.domain.errors import BadArgumentError, KvmBackupError
from kvm_backup.domain.phrase import phrase
from kvm_backup.web.language import in_words


def role_word(role: Role) -> str:
    """The role in the language of the page."""
    return in_words(account.role_word(role))


def role_choices(highest: Role) -> list[tuple[str, str]]:
    """The roles up to one, for a list to choose from."""
    return [(role.value, role_word(role)) for role in Role if highest.covers(role)]


def parse_role(text: str) -> Role:
    """A role that a form sent. Raises BadArgumentError."""
    try:
        return Role(text)
    except ValueError:
        raise BadArgumentError(
            phrase("{role!r} is no role", role=text), hint=phrase("Choose viewer, operator or administrator.")
        ) from None


def sentence(error: KvmBackupError) -> str:
    """What an error says, for the field that it is about."""
    message = in_words(error.message)
    return f"{message[:1].upper()}{message[1:]}. {in_words(error.hint)}"
