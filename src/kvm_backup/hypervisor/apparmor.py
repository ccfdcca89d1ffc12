"""AppArmor confines QEMU on Debian and Ubuntu: it may use a run's socket and scratch files only if a rule says so.

libvirt's profile for each VM includes local/abstractions/libvirt-qemu, the place for an administrator's own rules
(https://libvirt.org/drvqemu.html, "AppArmor"). A profile that is loaded already takes a new rule up when it is
loaded again.
"""

from collections.abc import Sequence
from pathlib import Path

LOCAL_RULES = Path("/etc/apparmor.d/local/abstractions/libvirt-qemu")
RELOAD = "apparmor_parser -r /etc/apparmor.d/libvirt/libvirt-*-*"


def rules_for(folders: Sequence[Path]) -> list[str]:
    """The lines that let QEMU create, write and remove files below each folder."""
    return [f'"{folder}/**" rwk,' for folder in folders]


def missing_rules(folders: Sequence[Path], local_rules: Path = LOCAL_RULES) -> list[str]:
    """The lines that the administrator's file does not hold."""
    try:
        present = {line.strip() for line in local_rules.read_text(encoding="utf-8", errors="replace").splitlines()}
    except OSError:
        present = set()
    return [rule for rule in rules_for(folders) if rule not in present]
