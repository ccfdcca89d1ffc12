"""What is said about accounts on several pages."""

from kvm_backup.domain import account
from kvm_backup.domain.account import Role
from kvm_backup.domain.errors import BadArgumentError, KvmBackupError
from kvm_backup.domain.phrase import phrase
from kvm_backup.web.formats import sentence
from kvm_backup.web.language import _, in_words


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


_BROWSERS = (("Edg", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrom", "Chrome"), ("Safari/", "Safari"))
_SYSTEMS = (
    ("Windows", "Windows"),
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Mac OS", "macOS"),
    ("Linux", "Linux"),
)


def browser_name(agent: str) -> str:
    """What a browser says of itself, in short: "Firefox, Linux"."""
    parts = [next((name for mark, name in names if mark in agent), "") for names in (_BROWSERS, _SYSTEMS)]
    return ", ".join(part for part in parts if part) or agent[:40] or _("unknown")


def told(error: KvmBackupError) -> str:
    """What an error says, for the field that it is about."""
    return f"{sentence(error.message)} {in_words(error.hint)}"
