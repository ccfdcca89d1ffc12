"""kvm-backup install-service"""

import sys
from pathlib import Path
from typing import Annotated

import typer

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
    out.print(f"{'written' if done.written else 'unchanged'}: {cell(done.path)}")
    if done.reloaded:
        out.print("systemd has read it")
    if done.enabled:
        out.print("it starts at each boot" + ("" if root else ", and runs now"))
    elif root is None:
        out.print(f"Start it now and at each boot: systemctl enable --now {UNIT}")
    if done.replaced and root is None:
        out.print(f"Where it runs already, the new file counts after: systemctl restart {UNIT}")
