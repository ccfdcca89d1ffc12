"""kvm-backup user"""

import getpass
import sys
from datetime import datetime
from typing import Annotated, Any

import typer

from kvm_backup.bootstrap import Application
from kvm_backup.cli.audited import audited
from kvm_backup.cli.confirm import agrees
from kvm_backup.cli.context import JsonOption, application
from kvm_backup.cli.language import _, ngettext
from kvm_backup.cli.output import cell, console, print_json, printable, table
from kvm_backup.cli.program import Program
from kvm_backup.domain.account import Account, Role
from kvm_backup.domain.errors import BadArgumentError, NotConfirmedError
from kvm_backup.domain.password import LONGEST
from kvm_backup.domain.phrase import phrase

app = Program(help="Who may use the dashboard and the API.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")]
RoleHelp = "viewer, operator or administrator."
StdinOption = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input: its first line.")
]


@app.command("add")
def add(
    name: NameArgument,
    role: Annotated[Role, typer.Option("--role", metavar="ROLE", help=RoleHelp)] = Role.VIEWER,
    password_stdin: StdinOption = False,
    json: JsonOption = False,
) -> None:
    """Add a user, and print a link by which they choose a password.

    The link is good once, for 24 hours. With --password-stdin there is a password at once and no link.
    """
    parts = application()
    password = _from_stdin() if password_stdin else None
    with audited(parts, "user.add", name, role.value) as note:
        made = parts.accounts.add(name, role, password)
        note.subject = made.name
    link = None if password_stdin else parts.accounts.link(made.name, parts.settings.web.url)
    _tell(_("user {name} added with the role {role}"), made, link, json=json)


@app.command("list")
def list_users(json: JsonOption = False) -> None:
    """List the users and their roles."""
    users = application().accounts.all()
    if json:
        print_json([summary(user) for user in users])
        return
    if not users:
        console().print(_("There is no user yet. Add one: kvm-backup user add NAME --role administrator"))
        return
    columns = [(_("NAME"), "left"), (_("ROLE"), "left"), (_("STATE"), "left"), (_("LAST LOGIN"), "left")]
    console().print(table(columns, [_row(user) for user in users]))


@app.command("password")
def password(
    name: NameArgument,
    password_stdin: StdinOption = False,
    link: Annotated[
        bool, typer.Option("--link", help="Print a link by which the user chooses it; the old one stays until then.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Set a user's password. All of the user's browsers are logged out.

    It is asked for on the terminal, twice, without being shown.
    """
    if link and password_stdin:
        raise BadArgumentError(
            phrase("give only one of --link and --password-stdin"), hint=phrase("Leave one of them out.")
        )
    parts = application()
    if link:
        with audited(parts, "user.link", name) as note:
            made = parts.accounts.link(name, parts.settings.web.url)
            user = parts.accounts.find(name)
            note.subject = user.name
        _tell(_("a link for user {name}"), user, made, json=json)
        return
    parts.accounts.find(name)  # before anything is typed
    chosen = _from_stdin() if password_stdin else _from_terminal()
    with audited(parts, "user.password", name) as note:
        user = parts.accounts.set_password(name, chosen)
        note.subject = user.name
    _tell(_("user {name} has a new password"), user, None, json=json)


@app.command("role")
def change_role(
    name: NameArgument,
    role: Annotated[Role, typer.Argument(metavar="ROLE", help=RoleHelp)],
    json: JsonOption = False,
) -> None:
    """Give a user another role. It holds at once."""
    parts = application()
    with audited(parts, "user.role", name, role.value):
        changed = parts.accounts.change_role(name, role)
    _tell(_("user {name} has the role {role} now"), changed, None, json=json)


@app.command("disable")
def disable(name: NameArgument, json: JsonOption = False) -> None:
    """Keep a user out: sessions end and tokens are revoked at once."""
    parts = application()
    with audited(parts, "user.disable", name):
        changed = parts.accounts.disable(name)
    _tell(_("user {name} disabled"), changed, None, json=json)


@app.command("enable")
def enable(name: NameArgument, json: JsonOption = False) -> None:
    """Let a user in again. The password is the old one; tokens must be made anew."""
    parts = application()
    with audited(parts, "user.enable", name):
        changed = parts.accounts.enable(name)
    _tell(_("user {name} enabled"), changed, None, json=json)


@app.command("remove")
def remove(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: JsonOption = False,
) -> None:
    """Remove a user with sessions and tokens. What they did stays in the audit log."""
    parts = application()
    user = parts.accounts.find(name)
    if not yes:
        _confirm(user, parts)
    with audited(parts, "user.remove", user.name):
        parts.accounts.remove(user.name)
    _tell(_("user {name} removed"), user, None, json=json)


def summary(user: Account) -> dict[str, Any]:
    """One object of `--json`."""
    return {
        "name": user.name,
        "role": user.role.value,
        "enabled": user.enabled,
        "can_sign_in": user.can_sign_in and user.enabled,
        "created": user.created.isoformat(),
        "last_sign_in": user.last_sign_in.isoformat() if user.last_sign_in else None,
    }


def local_time(moment: datetime | None) -> str:
    """A time of this host's zone, for people."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M") if moment else _("never")


def _row(user: Account) -> list[str]:
    state = _("active") if user.can_sign_in else _("invited")
    if not user.enabled:
        state = _("disabled")
    return [cell(user.name), user.role.value, state, local_time(user.last_sign_in)]


def _tell(sentence: str, user: Account, link: str | None, *, json: bool) -> None:
    if json:
        print_json(summary(user) | {"link": link})
        return
    told = sentence.format(name=cell(user.name), role=user.role.value)
    if link is None:
        console().print(f"[green]✓[/green] {told}")
        return
    sys.stderr.write(f"{printable(told)}. {_('The link is good once, for 24 hours:')}\n")
    sys.stderr.flush()
    console().print(cell(link))


def _confirm(user: Account, parts: Application) -> None:
    count = len(parts.api_tokens.of_user(user))
    question = ngettext("Remove user {name} with {count} token?", "Remove user {name} with {count} tokens?", count)
    if not agrees(question.format(name=user.name, count=count)):
        raise NotConfirmedError(
            phrase("the removal was not confirmed"), hint=phrase("Nothing was changed. Scripts give --yes.")
        )


def _from_stdin() -> str:
    line = sys.stdin.readline(LONGEST * 4)
    if not line:
        raise BadArgumentError(
            phrase("there is no password on standard input"), hint=phrase("Send it as one line, such as from a file.")
        )
    return line.rstrip("\r\n")


def _from_terminal() -> str:
    if not sys.stdin.isatty():
        raise BadArgumentError(
            phrase("there is no terminal to ask for a password"), hint=phrase("Scripts give --password-stdin.")
        )
    first = getpass.getpass(_("New password: "))
    if getpass.getpass(_("Once more: ")) != first:
        raise BadArgumentError(phrase("the two passwords are not the same"), hint=phrase("Nothing was changed."))
    return first
