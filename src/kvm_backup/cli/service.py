"""kvm-backup install-service"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from kvm_backup.cli.language import _
from kvm_backup.cli.output import cell, console
from kvm_backup.services.systemd import UNIT, install_service


def install(
    enable: Annotated[bool, typer.Option("--enable", help="Start it now, and at each boot.")] = False,
    root: Annotated[
        Path | None,
        typer.Option("--root", metavar="DIR", help="Write below this folder, for an image or a package."),
    ] = None,
) -> None:
    """Install the service for systemd, which runs schedules.

    What is changed with 'systemctl edit kvm-backup' stays when this is called again.
    """
    done = install_service(
        Path(sys.prefix) / "bin" / "kvm-backup", root=root.absolute() if root else None, enable=enable
    )
    out = console()
    line = _("written: {path}") if done.written else _("unchanged: {path}")
    out.print(line.format(path=cell(done.path)))
    if done.reloaded:
        out.print(_("systemd has read it"))
    if done.enabled:
        out.print(_("it starts at each boot") if root else _("it starts at each boot, and runs now"))
    elif root is None:
        out.print(_("Start it now and at each boot: systemctl enable --now {unit}").format(unit=UNIT))
    if done.replaced and root is None:
        out.print(_("Where it runs already, the new file counts after: systemctl restart {unit}").format(unit=UNIT))
