"""The first page: is every VM protected, what went wrong, what goes on, what comes next, and how space is used."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Request
from starlette.responses import Response

from kvm_backup.database.statistics import DaySums
from kvm_backup.services.overview import Overview, RepositorySpace
from kvm_backup.web import formats
from kvm_backup.web.calendar_rows import calendar_days, calendar_rows
from kvm_backup.web.context import render, wants_fragment
from kvm_backup.web.drawing import BarPlot, LinePlot, bar_plot, line_plot
from kvm_backup.web.language import _, ngettext
from kvm_backup.web.security.access import Viewer, application_of

router = APIRouter(include_in_schema=False)

_LOOKS_LATE = timedelta(minutes=5)
"""The service looks each minute, and takes a while where there are thousands of VMs."""
_SAMPLES_SHOWN = 2
"""Fewer samples of a repository's space make no line."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The page's one sentence. `tone` is that of a message; the text ends with the time `at`, where there is one."""

    tone: str
    text: str
    at: datetime | None = None


@router.get("/")
def overview(request: Request, user: Viewer) -> Response:  # noqa: ARG001 - who may look
    """The page, or what of it changes."""
    application = application_of(request)
    facts = application.overview.read()
    return render(
        request,
        "overview/_facts.html" if wants_fragment(request) else "overview/overview.html",
        facts=facts,
        verdict=verdict_of(facts),
        stale=is_stale(facts),
        is_new=is_new(facts),
        days=calendar_days(facts.vms, facts.calendar),
        rows=calendar_rows(facts.vms, facts.calendar),
        bytes_plot=_bytes_plot(facts.days),
        space=[(one, _space_plot(one, application.zone)) for one in facts.space],
    )


def is_new(facts: Overview) -> bool:
    """Whether nothing was set up yet, so that the page tells the first step."""
    return not facts.schedules and not facts.schedules_problem and not any(vm.points.points for vm in facts.vms)


def is_stale(facts: Overview) -> bool:
    """Whether the service has not looked at its VMs for a while, and has not told why."""
    host = facts.host
    return host.away_since is None and host.listed is not None and facts.now - host.listed > _LOOKS_LATE


def verdict_of(facts: Overview) -> Verdict | None:
    """Is every VM protected? In one sentence; None as long as nobody has looked."""
    if facts.host.listed is None:
        return None
    counts = facts.protection
    wrong = counts.overdue + counts.never + counts.late
    if counts.total == 0:
        return Verdict("info", _("libvirt has no virtual machine on this host."))
    if wrong:
        text = ngettext(
            "{count} of {total} virtual machines lacks a backup that its schedules promise.",
            "{count} of {total} virtual machines lack a backup that their schedules promise.",
            wrong,
            total=counts.total,
        )
        return Verdict("problem" if counts.overdue or counts.never else "warning", text)
    if counts.unscheduled:
        text = ngettext(
            "{count} of {total} virtual machines is in no schedule that is enabled.",
            "{count} of {total} virtual machines are in no schedule that is enabled.",
            counts.unscheduled,
            total=counts.total,
        )
        return Verdict("warning", text)
    if facts.host.away_since or facts.repositories_away or facts.schedules_problem or is_stale(facts):
        text = ngettext(
            "The virtual machine was protected when that could last be told.",
            "All {count} virtual machines were protected when that could last be told.",
            counts.total,
        )
        return Verdict("warning", text)
    if counts.pending:
        text = ngettext(
            "{count} of {total} virtual machines is not yet backed up; first at",
            "{count} of {total} virtual machines are not yet backed up; first at",
            counts.pending,
            total=counts.total,
        )
        return Verdict("info", text, facts.first_due)
    return Verdict(
        "good",
        ngettext("The virtual machine is protected.", "All {count} virtual machines are protected.", counts.total),
    )


def _bytes_plot(days: Iterable[DaySums]) -> BarPlot | None:
    known = list(days)
    if not any(day.bytes_read or day.bytes_stored for day in known):
        return None
    return bar_plot(
        [formats.short_day(day.day) for day in known],
        [(_("read"), [day.bytes_read for day in known]), (_("stored"), [day.bytes_stored for day in known])],
        formats.size,
    )


def _space_plot(one: RepositorySpace, zone: ZoneInfo) -> LinePlot | None:
    if len(one.samples) < _SAMPLES_SHOWN:
        return None
    labels = [formats.on_day(sample.at, zone) for sample in one.samples]
    return line_plot(labels, [(one.name, [sample.used for sample in one.samples])], formats.size, height=130)
