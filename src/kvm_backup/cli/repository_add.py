"""kvm-backup repository add"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from kvm_backup.bootstrap import Application
from kvm_backup.bootstrap.remotes import Added, NewRemote
from kvm_backup.cli.confirm import agrees
from kvm_backup.cli.context import application
from kvm_backup.cli.language import _, ngettext
from kvm_backup.cli.output import cell, console, prose
from kvm_backup.domain.keep_local import KeepLocal
from kvm_backup.services.remotes.meeting import Stranger

Hours = Annotated[
    list[str] | None,
    typer.Option("--bandwidth-hours", metavar="HOURS", help="'08:00-18:30 2MiB'; may be given several times."),
]
Recipients = Annotated[
    list[str] | None,
    typer.Option("--recipient", metavar="KEY", help="Encrypt for this public key, age1…; several are possible."),
]


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.", show_default=False)],
    url: Annotated[str, typer.Argument(metavar="URL", help="ssh://user@host/folder or ssh://user@host:port/folder.")],
    of: Annotated[
        str | None,
        typer.Option("--of", metavar="NAME", help="Which repository on this host it copies; else the default one."),
    ] = None,
    only_read: Annotated[
        bool, typer.Option("--only-read", help="Ship nothing there: list, verify and restore what it holds.")
    ] = False,
    keep_local: Annotated[
        KeepLocal | None,
        typer.Option("--keep-local", metavar="WHAT", help="Here stays all, newest-chain or nothing once shipped."),
    ] = None,
    bandwidth: Annotated[
        str | None, typer.Option("--bandwidth", metavar="RATE", help="At most so much a second, such as 20MiB.")
    ] = None,
    bandwidth_hours: Hours = None,
    prune_url: Annotated[
        str | None,
        typer.Option("--prune-url", metavar="URL", help="The same folder by an account that may read and remove."),
    ] = None,
    recipients: Recipients = None,
    identity_file: Annotated[
        Path | None,
        typer.Option("--identity-file", metavar="FILE", help="The private age key to read what is encrypted with."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask: only servers that known_hosts holds are accepted.")
    ] = False,
) -> None:
    """Add a repository on another server, which needs sshd and rsync only.

    Points are shipped there after each backup. A folder that holds the points of another repository is added to read
    from. Keys, aliases and jump hosts are those of your ssh configuration; a server that is new shows its fingerprint
    first. Nothing is written to the settings unless all went well.

    For one that is configured already with this name and URL only the server's key is asked about.
    """
    options: dict[str, str | Sequence[str] | None] = {
        "keep_local": keep_local.value if keep_local else None,
        "bandwidth": bandwidth,
        "bandwidth_hours": bandwidth_hours,
        "recipients": recipients,
        "identity_file": str(identity_file.absolute()) if identity_file else None,
    }
    new = NewRemote(name, url, prune_url, of, only_read, {key: value for key, value in options.items() if value})
    parts = application(makes_settings=True)
    remotes = parts.remotes
    for stranger in remotes.strangers(new):
        _let_accept(stranger, yes=yes)
    known = remotes.configured(new)
    if known is None:
        _tell(parts, remotes.add(new))
        return
    remotes.meet(known)
    done = _("{name} is configured already, and its server is known; the settings were not changed")
    console().print(f"[green]✓[/green] {prose(done.format(name=cell(name)), hanging='  ')}")


def _let_accept(stranger: Stranger, *, yes: bool) -> None:
    """Raises HostKeyError when nobody agrees."""
    out = console()
    if not yes:
        host = cell(stranger.address.host)
        out.print(prose(_("{host} is new here. It shows this host key:").format(host=host)))
        out.print(f"  [bold]{cell(stranger.key.fingerprint)}[/bold]")
        out.print(prose(_("Compare it at the console of that server, where this shows it:")))
        out.print(f"  ssh-keygen -lf {cell(_file_there(stranger.key.fingerprint))}")
    if yes or not agrees(_("Is it the same?")):
        raise stranger.refused()
    out.print(f"[green]✓[/green] {_('key written to {file}').format(file=cell(stranger.accept()))}")


def _file_there(fingerprint: str) -> str:
    """Where Debian's sshd and most others keep the key of that kind: `256 SHA256:… (ED25519)`."""
    return f"/etc/ssh/ssh_host_{fingerprint.rpartition('(')[2].rstrip(')').lower()}_key.pub"


def _tell(parts: Application, added: Added) -> None:
    out = console()
    done = _("repository {name} added to {file}").format(name=cell(added.name), file=cell(added.file))
    out.print(f"[green]✓[/green] {done}")
    for line in _read_only(added) if added.joined.of is None else [*_copy(parts, added), _key(added)]:
        out.print(prose(cell(line), indent="  ", hanging="  "))


def _read_only(added: Added) -> list[str]:
    return [
        _("It holds the points of another repository: nothing is shipped there, and it can be read."),
        ngettext(
            "{count} point is there: kvm-backup point list -r {name}",
            "{count} points are there: kvm-backup point list -r {name}",
            added.points,
        ).format(count=added.points, name=added.name),
    ]


def _copy(parts: Application, added: Added) -> list[str]:
    found = parts.shipments.everything_that_waits()
    waiting = sum(len(one.lack.to_ship) for one in found if one.remote == added.name)
    lines = [_("It is a copy of the repository {of} on this host.").format(of=added.joined.of)]
    if added.points:
        lines.append(
            ngettext("{count} point is there already.", "{count} points are there already.", added.points).format(
                count=added.points
            )
        )
    if not waiting:
        lines.append(_("Points are shipped there after each backup."))
    elif parts.service_runs():
        lines.append(
            ngettext(
                "{count} point waits and is shipped by the service: kvm-backup ship --waiting",
                "{count} points wait and are shipped by the service: kvm-backup ship --waiting",
                waiting,
            ).format(count=waiting)
        )
    else:
        lines.append(
            ngettext(
                "{count} point waits. Ship it now: kvm-backup ship --to {name}",
                "{count} points wait. Ship them now: kvm-backup ship --to {name}",
                waiting,
            ).format(count=waiting, name=added.name)
        )
    if added.keeps_all:
        lines.append(
            _(
                "All images stay here, whatever keep_local says: they are encrypted there, and only an account with "
                "a shell (prune_url) could show that they are whole."
            )
        )
    return lines


def _key(added: Added) -> str:
    if not added.joined.only_adds:
        return _(
            "This key may also change and remove what is there. How to let it only add: docs/shipping.md (in the "
            "copy of KVM Backup's repository that it was installed from)."
        )
    if added.joined.readable:
        return _("This key can only add: what is there is safe from whoever steals it.")
    return _(
        "This key can only add, and not read: what is there is safe from whoever steals it. To prune and to restore, "
        "give the repository a prune_url."
    )
