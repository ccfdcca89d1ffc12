"""The form of a schedule, a new one or one that is there: as a page, or in the dialog of a page."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.datastructures import FormData
from starlette.responses import Response

from kvm_backup.bootstrap import Application
from kvm_backup.database.inventory import VmFilter, VmSort
from kvm_backup.domain.account import Account, Role
from kvm_backup.domain.errors import (
    DatabaseError,
    ForbiddenError,
    InvalidScheduleError,
    KvmBackupError,
    ScheduleChangedError,
    ScheduleNotFoundError,
)
from kvm_backup.domain.inventory import VmRecord
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.schedule import Schedule
from kvm_backup.services.schedules.commands import revision
from kvm_backup.services.schedules.fields import VMS_MAX
from kvm_backup.web.context import Message, redirect, render
from kvm_backup.web.errors import status_of
from kvm_backup.web.language import _, in_words, ngettext
from kvm_backup.web.pages import schedule_words
from kvm_backup.web.pages.schedule_draft import FIELDS, Draft
from kvm_backup.web.pages.schedules import (
    CHANGED,
    LIST,
    address,
    exact,
    from_list,
    known_vms,
    shown,
    unknown_vms,
)
from kvm_backup.web.scheduling import check_repository
from kvm_backup.web.security.access import Operator, Viewer, application_of
from kvm_backup.web.security.audit import note

router = APIRouter(include_in_schema=False)

_NEXT_TIMES = 5
_VMS_FOUND = 50
_NAMES_TOLD = 5
_FIELDS_MAX = 3 * VMS_MAX
"""More than a form of ours has: each VM may stand in it as chosen and as found."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a form was not saved: texts by field, or what concerns none of them; `now` is what somebody else saved."""

    fields: dict[str, str] = field(default_factory=dict)
    message: str = ""
    hint: str = ""
    now: Sequence[tuple[str, str]] = ()
    status: int = 422


async def _form(request: Request) -> FormData:
    return await request.form(max_files=0, max_fields=_FIELDS_MAX)


Form = Annotated[FormData, Depends(_form)]
Search = Annotated[str, Query(max_length=255)]


@router.get("/schedules/new")
def new(request: Request, user: Operator) -> Response:
    """An empty form; `vms` in the address are chosen already."""
    chosen = tuple(dict.fromkeys(request.query_params.getlist("vms")[:VMS_MAX]))
    scripts = "" if user.role.covers(Role.ADMINISTRATOR) else None
    return _show(request, user, Draft(vms=chosen, pre_script=scripts, post_script=scripts))


@router.get("/schedules/preview")
def preview(request: Request, user: Viewer) -> Response:  # noqa: ARG001 - who may look
    """The next times of what is being typed, or why there are none."""
    times, problem = _preview(application_of(request), Draft.from_form(request.query_params))
    return render(request, "schedules/_preview.html", times=times, problem=problem, words=schedule_words)


@router.get("/schedules/vms")
def vms(request: Request, user: Viewer, vm_search: Search = "") -> Response:  # noqa: ARG001 - who may look
    """The VMs of this host that fit what is being typed."""
    return render(request, "schedules/_vms.html", **_found_vms(application_of(request), vm_search, ()))


@router.get("/schedules/kept")
def kept(request: Request, user: Viewer, repository: Search = "") -> Response:  # noqa: ARG001 - who may look
    """What stays in a repository when a schedule says nothing of it."""
    return render(request, "schedules/_kept.html", kept=_kept(application_of(request), repository))


@router.post("/schedules/form")
def again(request: Request, user: Operator, form: Form) -> Response:
    """The same form, with VMs searched or chosen, or other next times: what scripts do in the page, without them."""
    note(request, "schedule.form")
    draft = _allowed(Draft.from_form(form), user)
    search = _text(form, "vm_search")
    if _text(form, "do") == "all":
        shown = _found_vms(application_of(request), search, draft.vms)["found"]
        draft = replace(draft, vms=(*draft.vms, *(vm.name for vm in shown)))
    if _text(form, "add"):
        draft = replace(draft, vms=(*draft.vms, _text(form, "add")))
    own_id = _text(form, "schedule_id")
    schedule = exact(application_of(request), own_id) if own_id else None
    return _show(request, user, draft, schedule=schedule, search=search)


@router.post(LIST)
def create(request: Request, user: Operator, form: Form) -> Response:
    """Make a schedule."""
    note(request, "schedule.create", _text(form, "name"))
    draft = _allowed(Draft.from_form(form), user)
    application = application_of(request)
    try:
        check_repository(application, draft.repository)
        made = application.schedules.add(draft.new())
    except KvmBackupError as error:
        return _refused(request, user, draft, form, error, None)
    note(request, "schedule.create", made.name, made.id)
    return _saved(request, made, _("{name} is planned: {when}.", name=made.name, when=_when(made)), address(made))


@router.get("/schedules/{schedule_id:path}/edit")
def edit(request: Request, user: Operator, schedule_id: str) -> Response:
    """The form with what a schedule is now."""
    schedule = exact(application_of(request), schedule_id)
    draft = Draft.of(schedule)
    if not user.role.covers(Role.ADMINISTRATOR):
        draft = replace(draft, pre_script=None, post_script=None)
    return _show(request, user, draft, schedule=schedule)


@router.post("/schedules/{schedule_id:path}/edit")
def change(request: Request, user: Operator, schedule_id: str, form: Form) -> Response:
    """Save the form, if the schedule still is what the user saw."""
    note(request, "schedule.change", schedule_id)
    draft = _allowed(Draft.from_form(form), user)
    application = application_of(request)
    schedule = None
    try:
        schedule, _problem = shown(application, schedule_id)
        check_repository(application, draft.repository, schedule)
        changed = application.schedules.edit(schedule.id, draft.changes(), known=draft.revision)
    except KvmBackupError as error:
        return _refused(request, user, draft, form, error, schedule)
    note(request, "schedule.change", changed.name, changed.id)
    return _saved(
        request, changed, _("{name} is saved: {when}.", name=changed.name, when=_when(changed)), address(changed)
    )


def _show(
    request: Request,
    user: Account,
    draft: Draft,
    *,
    schedule: Schedule | None = None,
    trouble: Trouble | None = None,
    search: str = "",
) -> Response:
    application = application_of(request)
    times, problem = _preview(application, draft)
    return render(
        request,
        "schedules/form.html",
        status=trouble.status if trouble else 200,
        draft=draft,
        schedule=schedule,
        action=f"{address(schedule)}/edit" if schedule else LIST,
        back=address(schedule) if schedule else LIST,
        trouble=trouble or Trouble(),
        # A form that nobody has filled in yet tells of nothing that is wrong with it.
        times=times,
        problem=problem if schedule or trouble or draft.schedule_time.strip() else "",
        chosen=_chosen(application, draft.vms),
        search=search,
        repositories=_repositories(application, schedule),
        kept=_kept(application, draft.repository),
        remotes=_remotes(application, draft),
        may_script=user.role.covers(Role.ADMINISTRATOR),
        words=schedule_words,
        **_found_vms(application, search, draft.vms),
    )


def _refused(
    request: Request, user: Account, draft: Draft, form: FormData, error: KvmBackupError, schedule: Schedule | None
) -> Response:
    """The form again, with all that is wrong at its place."""
    application = application_of(request)
    if isinstance(error, ScheduleNotFoundError):
        hint = _("Your texts are still below. Saving them makes a new schedule.")
        trouble = Trouble(message=in_words(error.message), hint=hint, status=404)
    elif isinstance(error, ScheduleChangedError) and schedule is not None:
        current = exact(application, schedule.id)
        draft, schedule = replace(draft, revision=revision(current)), current
        trouble = Trouble(
            message=in_words(error.message),
            hint=_("Your texts are still below. Saving again replaces what is saved now:"),
            now=_differences(application, current, draft),
            status=409,
        )
    elif isinstance(error, InvalidScheduleError):
        trouble = Trouble(fields=_field_errors(application, draft, error, schedule))
    else:
        trouble = Trouble(message=in_words(error.message), hint=in_words(error.hint), status=status_of(error))
    return _show(request, user, draft, schedule=schedule, trouble=trouble, search=_text(form, "vm_search"))


def _field_errors(
    application: Application, draft: Draft, first: InvalidScheduleError, schedule: Schedule | None
) -> dict[str, str]:
    found = application.schedules.problems(draft.new(), own_id=schedule.id if schedule else "")
    return {FIELDS.get(error.field, error.field): schedule_words.refusal(error) for error in [*found, first]}


def _differences(application: Application, current: Schedule, draft: Draft) -> list[tuple[str, str]]:
    """What is saved now and differs from the form, as pairs of a field's name and its text."""
    now = Draft.of(current)
    names = ", ".join(current.vm_names[:_NAMES_TOLD]) + (" …" if len(current.vm_names) > _NAMES_TOLD else "")
    pairs = [
        (_("Name"), now.name, now.name != draft.name),
        (_("Virtual machines"), names, now.vms != draft.vm_names),
        (_("When"), _when(current), (now.type, now.schedule_time) != (draft.type, draft.schedule_time)),
        (_("Mode"), now.mode, now.mode != draft.mode),
        (_("Repository"), now.repository or _("the default one"), now.repository != draft.repository),
        (_("Keeps"), schedule_words.kept(current.retention) or "–", now.wishes != draft.wishes),
        (
            _("Shipped to"),
            schedule_words.shipped(current.ship_to, application.shipping.remotes),
            now.shipped_to != draft.shipped_to,
        ),
        (_("Script before"), now.pre_script or "–", draft.pre_script not in (None, now.pre_script)),
        (_("Script after"), now.post_script or "–", draft.post_script not in (None, now.post_script)),
    ]
    return [(label, text) for label, text, differs in pairs if differs]


def _saved(request: Request, schedule: Schedule, text: str, page: str) -> Response:
    unknown = unknown_vms(application_of(request), schedule.vm_names)
    message = Message(text)
    if unknown:
        names = ", ".join(unknown[:_NAMES_TOLD]) + (" …" if len(unknown) > _NAMES_TOLD else "")
        warning = ngettext(
            "This host knows no VM called {names} yet.",
            "This host knows {count} of its VMs not yet: {names}.",
            len(unknown),
            names=names,
        )
        message = Message(text, "warning", warning)
    if from_list(request):
        return render(request, "fragment.html", message=message, headers=CHANGED)
    return redirect(request, page, message)


def _preview(application: Application, draft: Draft) -> tuple[Sequence[datetime], str]:
    try:
        return application.schedules.next_times(draft.timing, _NEXT_TIMES), ""
    except InvalidScheduleError as error:
        return (), schedule_words.refusal(error)


def _found_vms(application: Application, search: str, chosen: Sequence[str]) -> dict[str, Any]:
    """The VMs that fit, without those that are chosen, some of them; `more` is whether there are others."""
    text = search.strip()
    which = VmFilter(search=text or None, gone=False)
    try:
        fitting = application.inventory.page(which, sort=VmSort.NAME, limit=_VMS_FOUND + len(chosen) + 1)
    except DatabaseError as error:
        return {"found": [], "more": False, "searched": text, "known": True, "away": in_words(error.message)}
    taken = set(chosen)
    others = [vm for vm in fitting if vm.name not in taken and vm.uuid not in taken]
    return {
        "found": others[:_VMS_FOUND],
        "more": len(others) > _VMS_FOUND,
        "searched": text,
        "known": bool(fitting),
        "away": "",
    }


def _chosen(application: Application, names: Sequence[str]) -> list[tuple[str, VmRecord | None]]:
    try:
        return list(known_vms(application, names).items())
    except DatabaseError:
        return [(name, None) for name in names]


def _repositories(application: Application, schedule: Schedule | None) -> list[tuple[str, str]]:
    configured = sorted(application.settings.repositories())
    default = application.settings.default_repository
    choices = [("", _("The default one ({name})", name=default)), *((name, name) for name in configured)]
    own = schedule.repository if schedule else None
    return choices if own is None or own in configured else [*choices, (own, own)]


def _remotes(application: Application, draft: Draft) -> list[tuple[str, str]]:
    """The remotes that points can be shipped to, each with the repository that it copies; also one that is chosen and
    that the settings no longer name."""
    known = {name: remote.of or "" for name, remote in sorted(application.shipping.remotes.items()) if remote.of}
    return list((dict.fromkeys(draft.ship_to, "") | known).items())


def _kept(application: Application, repository: str) -> str:
    return schedule_words.kept(application.rules.usual_retention(repository or None))


def _allowed(draft: Draft, user: Account) -> Draft:
    """Raises ForbiddenError where a form has scripts that its user may not set: they run as root."""
    if not user.role.covers(Role.ADMINISTRATOR) and (draft.pre_script, draft.post_script) != (None, None):
        raise ForbiddenError(
            phrase("scripts run as root, so only an administrator may set them"),
            hint=phrase("Leave them as they are, or ask an administrator."),
        )
    return draft


def _when(schedule: Schedule) -> str:
    told = schedule_words.when(schedule)
    return f"{told[:1].lower()}{told[1:]}"


def _text(form: FormData, name: str) -> str:
    value = form.get(name, "")
    return value if isinstance(value, str) else ""
