"""The program's own words for people, in their language; English ones are mostly as JSON and settings have them."""

from datetime import UTC, datetime

from kvm_backup.cli.language import _
from kvm_backup.domain.disk import LeftOut
from kvm_backup.domain.point import Consistency, DiskMode, Mode


def mode_word(mode: str | None) -> str:
    """Empty for none; a mode that this program does not know stays as it came."""
    words: dict[str | None, str] = {
        Mode.FULL: _("full"),
        Mode.INCREMENTAL: _("incremental"),
        Mode.SNAPSHOT: _("snapshot"),
    }
    return words.get(mode, mode or "")


def disk_mode_word(mode: str) -> str:
    """How a disk is stored in its point."""
    return {DiskMode.WHOLE: _("whole"), DiskMode.HOST: _("on host")}.get(DiskMode(mode)) or mode_word(mode)


def consistency_word(consistency: str | None) -> str:
    """Short, for a table; empty for none."""
    words: dict[str | None, str] = {Consistency.FILESYSTEM: _("filesystem"), Consistency.CRASH: _("crash")}
    return words.get(consistency, consistency or "")


def left_out_word(why: str) -> str:
    """Why a disk is not in a point."""
    return {
        LeftOut.CDROM: _("CD-ROM"),
        LeftOut.FLOPPY: _("floppy"),
        LeftOut.READ_ONLY: _("read-only"),
        LeftOut.SHAREABLE: _("shared between VMs"),
        LeftOut.EXCLUDED: _("excluded"),
        LeftOut.PASSED_THROUGH: _("passed through"),
        LeftOut.EMPTY: _("no medium"),
    }[LeftOut(why)]


def step_word(step: str) -> str:
    """A step of a run."""
    words = {
        "before": _("script before"),
        "after": _("script after"),
        "prepare": _("prepare"),
        "begin": _("begin"),
        "copy": _("copy"),
        "publish": _("publish"),
        "advance": _("advance"),
        "prune": _("prune"),
        "verify": _("verify"),
        "restore": _("restore"),
        "encrypt": _("encrypt"),
        "ship": _("ship"),
        "fetch": _("fetch"),
    }
    return words.get(step, step)


def local_time(moment: datetime) -> str:
    """On this host's clocks, with their zone."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def utc_time(moment: datetime) -> str:
    """As in the ids of points."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
