"""What the retention rule decided about a point, in words."""

from kvm_backup.domain.retention import Keep, Reason, Verdict

_PLAIN = {
    Keep.LAST: "one of the newest",
    Keep.GOOD: "one of the newest good ones",
    Keep.DAMAGED: "damaged, but no newer point is good",
    Keep.UNREADABLE: "cannot be read, so it is left alone",
}


def explain(verdict: Verdict, *, consolidated: bool, dry_run: bool) -> str:
    """One clause for people: `kept: daily 2026-11-21, weekly 2026-W47`."""
    if not verdict.kept:
        return "goes" if dry_run else "gone"
    text = f"kept: {', '.join(_in_words(reason) for reason in verdict.reasons)}"
    if consolidated:
        text += f"; {'becomes' if dry_run else 'became'} a full point, so that nothing below it is needed"
    return text


def _in_words(reason: Reason) -> str:
    if reason.keep is Keep.NEEDED:
        return f"needed by {reason.what.split('/')[-1]}"
    return _PLAIN.get(reason.keep) or f"{reason.keep.value} {reason.what}"
