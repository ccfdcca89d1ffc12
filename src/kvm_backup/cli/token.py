"""kvm-backup token"""

import sys
from typing import Annotated, Any

import typer

from kvm_backup.cli.audited import audited
from kvm_backup.cli.context import JsonOption, application
from kvm_backup.cli.language import _
from kvm_backup.cli.output import cell, console, print_json, printable, table
from kvm_backup.cli.program import Program
from kvm_backup.cli.user import RoleHelp, local_time
from kvm_backup.domain.account import TOKEN_DAYS, TOKEN_DAYS_MAX, ApiToken, Role
from kvm_backup.domain.errors import BadArgumentError
from kvm_backup.domain.phrase import phrase

app = Program(help="API tokens: what programs show instead of a password.")


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What uses the token.")],
    user: Annotated[str, typer.Option("--user", metavar="USER", help="Whose token it is.")],
    role: Annotated[Role, typer.Option("--role", metavar="ROLE", help=RoleHelp)] = Role.VIEWER,
    days: Annotated[
        int | None,
        typer.Option("--days", metavar="DAYS", min=1, max=TOKEN_DAYS_MAX, help="How long it lives; 90 if not given."),
    ] = None,
    never_expires: Annotated[bool, typer.Option("--never-expires", help="It lives until it is revoked.")] = False,
    json: JsonOption = False,
) -> None:
    """Make a token and print it, this once. Its role is at most that of its user."""
    if never_expires and days is not None:
        raise BadArgumentError(
            phrase("give only one of --days and --never-expires"), hint=phrase("Leave one of them out.")
        )
    parts = application()
    lifetime = None if never_expires else days or TOKEN_DAYS
    with audited(parts, "token.add", name) as note:
        token, text = parts.api_tokens.add(parts.accounts.find(user), name, role, lifetime)
        note.detail = f"{token.id} {token.role.value} of {token.user_name}"
    if json:
        print_json(summary(token) | {"token": text})
        return
    until = _("until {time}").format(time=local_time(token.expires)) if token.expires else _("for ever")
    sys.stderr.write(
        _("token {id} of {user}, {role}, {until}; it is shown this once:").format(
            id=token.id, user=printable(token.user_name), role=token.role.value, until=until
        )
        + "\n"
    )
    sys.stderr.flush()
    console().print(text)


@app.command("list")
def list_tokens(json: JsonOption = False) -> None:
    """List everybody's tokens, newest first, expired ones, too."""
    tokens = application().api_tokens.all()
    if json:
        print_json([summary(token) for token in tokens])
        return
    if not tokens:
        console().print(_("There is no token."))
        return
    columns = [(_("TOKEN"), "left"), (_("NAME"), "fold"), (_("USER"), "left"), (_("ROLE"), "left")]
    columns += [(_("EXPIRES"), "left"), (_("LAST USED"), "left")]
    console().print(table(columns, [_row(token) for token in tokens]))


@app.command("revoke")
def revoke(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="Its id, or a beginning that only one has.")],
    json: JsonOption = False,
) -> None:
    """Revoke a token: it is good for nothing from now on."""
    parts = application()
    with audited(parts, "token.revoke", token) as note:
        revoked = parts.api_tokens.revoke(token)
        note.subject, note.detail = revoked.name, f"{revoked.id} of {revoked.user_name}"
    if json:
        print_json(summary(revoked))
        return
    console().print(
        "[green]✓[/green] " + _("token {id} revoked: {name}").format(id=revoked.id, name=cell(revoked.name))
    )


def summary(token: ApiToken) -> dict[str, Any]:
    """One object of `--json`."""
    return {
        "id": token.id,
        "name": token.name,
        "user": token.user_name,
        "role": token.role.value,
        "created": token.created.isoformat(),
        "expires": token.expires.isoformat() if token.expires else None,
        "last_used": token.last_used.isoformat() if token.last_used else None,
    }


def _row(token: ApiToken) -> list[str]:
    expires = local_time(token.expires) if token.expires else f"[yellow]{_('never')}[/yellow]"
    return [
        token.id,
        cell(token.name),
        cell(token.user_name),
        token.role.value,
        expires,
        local_time(token.last_used),
    ]
