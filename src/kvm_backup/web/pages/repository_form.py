"""Adding a repository on another server: what is typed, then the server's host key to compare, then it is there."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Self
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request
from starlette.datastructures import FormData
from starlette.responses import Response

from kvm_backup.bootstrap import Application
from kvm_backup.bootstrap.remotes import Added, NewRemote
from kvm_backup.domain.errors import BadArgumentError, KvmBackupError
from kvm_backup.domain.keep_local import KeepLocal
from kvm_backup.domain.phrase import phrase
from kvm_backup.services.remotes.meeting import Stranger
from kvm_backup.web.adding import add_or_ask, key_mark
from kvm_backup.web.context import Message, redirect, render, wants_fragment
from kvm_backup.web.errors import status_of
from kvm_backup.web.formats import sentence
from kvm_backup.web.language import _, in_words, ngettext
from kvm_backup.web.pages.repositories import LIST
from kvm_backup.web.security.access import Administrator, application_of
from kvm_backup.web.security.audit import note

router = APIRouter(prefix="/repositories", include_in_schema=False)

ONLY_READ = "-"
"""In the place of a local repository: nothing is shipped there."""
_LONGEST = 4000
_SECRET = "AGE-SECRET-KEY-"  # noqa: S105 - how a private key begins, which is refused
_FIELD_OF = {
    "encryption-key": "recipients",
    "host-key": "url",
    "remote-access": "url",
    "remote-setup": "url",
    "remote-unreachable": "url",
    "repository-format": "url",
    "repository-not-found": "url",
}
"""Beside which field an error of a code is told."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What stands in the form, as it was typed. `accepted` are the marks of host keys that the user has compared."""

    name: str = ""
    url: str = "ssh://"
    of: str = ""
    keep_local: str = KeepLocal.ALL.value
    bandwidth: str = ""
    hours: str = ""
    prune_url: str = ""
    recipients: str = ""
    accepted: Sequence[str] = field(default_factory=tuple)

    @classmethod
    def from_form(cls, form: FormData) -> Self:
        """What a browser sent; files are no texts of ours."""

        def text(name: str) -> str:
            value = form.get(name, "")
            return value.strip()[:_LONGEST] if isinstance(value, str) else ""

        names = ("name", "url", "of", "keep_local", "bandwidth", "hours", "prune_url", "recipients")
        accepted = [value for value in form.getlist("accepted") if isinstance(value, str)]
        return cls(**{name: text(name) for name in names}, accepted=tuple(accepted[:4]))

    @property
    def new(self) -> NewRemote:
        """What is wanted."""
        only_read = self.of == ONLY_READ
        options: dict[str, str | Sequence[str]] = {
            "keep_local": "" if only_read or self.keep_local == KeepLocal.ALL else self.keep_local,
            "bandwidth": self.bandwidth,
            "bandwidth_hours": _lines(self.hours),
            "recipients": () if only_read else _lines(self.recipients),
        }
        given = {key: value for key, value in options.items() if value}
        return NewRemote(
            self.name, self.url, self.prune_url or None, None if only_read else self.of or None, only_read, given
        )


async def _form(request: Request) -> FormData:
    return await request.form(max_files=0, max_fields=20)


@router.get("/new")
def new(request: Request, user: Administrator) -> Response:  # noqa: ARG001 - who may do it
    """An empty form."""
    return _show(request, Draft(of=application_of(request).settings.default_repository), {})


@router.post("/new")
def add(request: Request, user: Administrator, form: Annotated[FormData, Depends(_form)]) -> Response:  # noqa: ARG001
    """Ask for the host key, or add the repository once the key was compared."""
    typed = Draft.from_form(form)
    draft, secrets = _without_secrets(typed)
    note(request, "repository.add", draft.name, draft.url)
    application = application_of(request)
    wrong = {**_unfit(application, draft), **secrets}
    if wrong or "again" in form:
        return _show(request, draft, wrong, status=422 if wrong else 200)
    try:
        answer = add_or_ask(request, draft.new, draft.accepted)
    except KvmBackupError as error:
        return _refused(request, draft, error)
    return _ask(request, draft, answer) if isinstance(answer, Stranger) else _added(request, answer)


def _unfit(application: Application, draft: Draft) -> dict[str, str]:
    found = application.remotes.unfit(draft.new)
    if draft.of not in (*application.settings.repositories(), ONLY_READ):
        found["of"] = phrase("no repository is called {wanted!r}", wanted=draft.of)
    return {"hours" if key == "bandwidth_hours" else key: sentence(text) for key, text in found.items()}


def _without_secrets(draft: Draft) -> tuple[Draft, dict[str, str]]:
    """The form without what must not be in it, which is not handed back either, and a word beside each field."""
    told: dict[str, str] = {}
    changes: dict[str, str] = {}
    if _SECRET in draft.recipients.upper():
        changes["recipients"] = ""
        told["recipients"] = _(
            "That was a private key. It belongs to nobody but you: keep it off this page, and paste the public key, "
            "age1…"
        )
    for name in ("url", "prune_url"):
        url = getattr(draft, name)
        login = urlsplit(url).netloc.rpartition("@")[0] if "://" in url else ""
        if ":" in login:
            changes[name] = url.replace(login, login.partition(":")[0])
            told[name] = _("An address holds no password: ssh logs in with a key.")
    values = {key: getattr(draft, key) for key in Draft.__dataclass_fields__} | changes
    return Draft(**values), told


def _refused(request: Request, draft: Draft, error: KvmBackupError) -> Response:
    text = f"{sentence(error.message)} {in_words(error.hint)}"
    place = _FIELD_OF.get(error.code, "")
    if isinstance(error, BadArgumentError):
        place = "url"
    return _show(request, draft, {place: text}, status=status_of(error))


def _ask(request: Request, draft: Draft, stranger: Stranger) -> Response:
    """Show the key. One that is another than was accepted a moment ago is told as such."""
    return render(
        request,
        "repositories/host_key.html",
        draft=draft,
        host_name=stranger.address.host,
        fingerprint=stranger.key.fingerprint,
        mark=key_mark(stranger),
        others=[mark for mark in draft.accepted if not _is_of(mark, stranger)],
        file=_file_there(stranger.key.fingerprint),
        changed=any(_is_of(mark, stranger) for mark in draft.accepted),
        back=LIST,
    )


def _added(request: Request, added: Added) -> Response:
    if added.joined.of is None:
        text = ngettext(
            "{name} is added to restore from; it holds {count} point.",
            "{name} is added to restore from; it holds {count} points.",
            added.points,
            name=added.name,
        )
    else:
        text = _("{name} is added. What is here is shipped there from now on.", name=added.name)
    hint = ""
    if added.joined.of is not None and not added.joined.only_adds:
        hint = _("This key may also change and remove what is there. How to let it only add: docs/shipping.md.")
    elif added.joined.of is not None and not added.joined.readable:
        hint = _("This key can only add: what is there is safe from whoever steals it.")
    if added.keeps_all:
        stays = _(
            "All images stay here, whatever keep_local says: they are encrypted there, and only an account with "
            "a shell (prune_url) could show that they are whole."
        )
        hint = f"{stays} {hint}"
    message = Message(text, "good", hint)
    if wants_fragment(request) and urlsplit(request.headers.get("hx-current-url", "")).path == LIST:
        headers = {"HX-Trigger": "repositories-changed"}
        return render(request, "fragment.html", message=message, headers=headers)
    return redirect(request, LIST, message)


def _show(request: Request, draft: Draft, errors: dict[str, str], *, status: int = 200) -> Response:
    settings = application_of(request).settings
    copies = [(name, _("A copy of {name}", name=name)) for name in sorted(settings.repositories())]
    return render(
        request,
        "repositories/form.html",
        status=status,
        draft=draft,
        errors={key: text for key, text in errors.items() if key},
        problem=errors.get("", ""),
        of_choices=[*copies, (ONLY_READ, _("Only to restore from: nothing is shipped there"))],
        keep_choices=[
            (KeepLocal.ALL.value, _("Everything: it can be restored at once")),
            (KeepLocal.NEWEST_CHAIN.value, _("The newest chain; older points are fetched when needed")),
            (KeepLocal.NOTHING.value, _("Nothing, once it has arrived and was checked there")),
        ],
        back=LIST,
    )


def _is_of(mark: str, stranger: Stranger) -> bool:
    return mark.startswith(f"{stranger.address.host} ")


def _file_there(fingerprint: str) -> str:
    """Where Debian's sshd and most others keep the key of that kind: `256 SHA256:… (ED25519)`."""
    kind = "".join(letter for letter in fingerprint.rpartition("(")[2].lower() if letter.isalnum())
    return f"/etc/ssh/ssh_host_{kind}_key.pub"


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())
