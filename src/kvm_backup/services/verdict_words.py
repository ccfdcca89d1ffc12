"""What the retention rule decided about a point, in words."""

from kvm_backup.domain.phrase import listed, phrase
from kvm_backup.domain.retention import Keep, Reason, Verdict

_PLAIN = {
    Keep.LAST: phrase("one of the newest"),
    Keep.GOOD: phrase("one of the newest good ones"),
    Keep.DAMAGED: phrase("damaged, but no newer point is good"),
    Keep.UNREADABLE: phrase("cannot be read, so it is left alone"),
}
_OF_A_PERIOD = {
    Keep.DAILY: phrase("daily"),
    Keep.WEEKLY: phrase("weekly"),
    Keep.MONTHLY: phrase("monthly"),
    Keep.YEARLY: phrase("yearly"),
}


def explain(verdict: Verdict, *, consolidated: bool, dry_run: bool) -> str:
    """One clause for people: `kept: daily 2026-11-21, weekly 2026-W47`."""
    if not verdict.kept:
        return phrase("goes") if dry_run else phrase("removed")
    reasons = listed(", ", *(_in_words(reason) for reason in verdict.reasons))
    if not consolidated:
        return phrase("kept: {reasons}", reasons=reasons)
    if dry_run:
        return phrase("kept: {reasons}; becomes a full point, so that nothing below it is needed", reasons=reasons)
    return phrase("kept: {reasons}; became a full point, so that nothing below it is needed", reasons=reasons)


def _in_words(reason: Reason) -> str:
    if reason.keep is Keep.NEEDED:
        return phrase("needed by {point}", point=reason.what.split("/")[-1])
    if reason.keep is Keep.WAITING:
        return phrase("waits to be shipped to {remotes}", remotes=reason.what)
    plain = _PLAIN.get(reason.keep)
    return plain or phrase("{kind} {period}", kind=_OF_A_PERIOD[reason.keep], period=reason.what)
