#!/usr/bin/env python3
"""Manages schedules with the machine's plain python3: the same commands as `kvm-backup schedule`.

It finds the environment that KVM Backup is installed in and goes on in there; where there is none yet, it makes one.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = (HERE / ".venv", Path("/opt/kvm-backup"))


def interpreter() -> Path | None:
    """The Python of the first environment that KVM Backup is installed in."""
    for environment in ENVIRONMENTS:
        python = environment / "bin" / "python"
        if os.access(python, os.X_OK) and (environment / "bin" / "kvm-backup").exists():
            return python
    return None


def make_environment() -> None:
    """Install what is missing in a folder beside this file; ends the process when that fails."""
    steps = (
        ["scripts/ensure-packages", "scripts/packages/python.txt"],
        ["scripts/ensure-venv", ".venv", "requirements.lock", "--editable"],
    )
    for step in steps:
        try:
            failed = (
                subprocess.run([HERE / step[0], *step[1:]], cwd=HERE, stdout=sys.stderr, check=False).returncode != 0
            )
        except OSError:
            failed = True
        if failed:
            sys.exit(
                "error: KVM Backup is not installed on this machine, and could not be set up here\n"
                f"HINT: Run 'sudo make install' in {HERE}, then try again."
            )


def main(module: str = "kvm_backup.cli.schedule", *words: str) -> NoReturn:
    """Go on as a module of KVM Backup, with the words of the command line behind `words`."""
    python = interpreter()
    if python is None:
        make_environment()
        python = interpreter()
    if python is None:
        sys.exit(f"error: no Python environment was found\nHINT: Run 'sudo make install' in {HERE}, then try again.")
    os.execv(python, [str(python), "-P", "-m", module, *words, *sys.argv[1:]])  # noqa: S606 - no shell


if __name__ == "__main__":
    main()
