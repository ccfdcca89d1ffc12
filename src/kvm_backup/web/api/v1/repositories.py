"""Repositories, on this host and on other servers, and what waits to be shipped."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from kvm_backup.bootstrap.places import LocalPlace, QueueLine, RemotePlace
from kvm_backup.bootstrap.remotes import NewRemote
from kvm_backup.domain.errors import BadArgumentError
from kvm_backup.domain.keep_local import KeepLocal
from kvm_backup.domain.phrase import phrase
from kvm_backup.services.remotes.meeting import Stranger
from kvm_backup.web.adding import add_or_ask, key_mark
from kvm_backup.web.api.v1 import models
from kvm_backup.web.api.v1.answers import Limit, Offset, Search, problems
from kvm_backup.web.language import in_words
from kvm_backup.web.security.access import Administrator, Operator, Viewer, application_of
from kvm_backup.web.security.audit import note

router = APIRouter(prefix="/repositories", tags=["repositories"])


@router.get("", responses=problems())
def list_repositories(request: Request, user: Viewer) -> models.RepositoryList:  # noqa: ARG001
    """The repositories of the settings, those on this host first. Of the others what was last known is told."""
    places = application_of(request).places
    return models.RepositoryList(repositories=[*map(_local, places.here()), *map(_remote, places.there())])


@router.post("", status_code=201, responses=problems(404, 409, 507) | {200: {"model": models.HostKeyShown}})
def add_repository(
    request: Request,
    user: Administrator,  # noqa: ARG001 - who may do it
    wanted: models.NewRepository,
    response: Response,
) -> models.Repository | models.HostKeyShown:
    """Add a repository on another server. Needs the role administrator.

    A server that is new is not logged in to: the answer is 200 with its host key. Compare it, and send the same
    again with its `mark` in `accepted`; the answer is 201 then. Secrets have no place here: keys are those of the
    service's ssh, and `recipients` are public.
    """
    application = application_of(request)
    new = _new(wanted)
    note(request, "repository.add", new.name, new.url)
    unfit = application.remotes.unfit(new)
    if unfit:
        field, text = next(iter(unfit.items()))
        raise BadArgumentError(
            phrase("{field} cannot be used: {problem}", field=field or "it", problem=text),
            hint=phrase("Nothing was added."),
        )
    answer = add_or_ask(request, new, wanted.accepted)
    if isinstance(answer, Stranger):
        response.status_code = 200
        return models.HostKeyShown(
            host=answer.address.host, fingerprint=answer.key.fingerprint, mark=key_mark(answer)
        )
    added = next(place for place in application.places.there() if place.name == answer.name)
    return _remote(added)


@router.get("/waiting", responses=problems())
def list_waiting(
    request: Request,
    user: Viewer,  # noqa: ARG001 - who may look
    repository: Annotated[str | None, Query(max_length=200)] = None,
    search: Search = None,
    offset: Offset = 0,
    limit: Limit = 50,
) -> models.WaitingList:
    """What waits to be shipped, of one VM to one repository a line: what goes on now, then what waits longest."""
    queue = application_of(request).places.queue(remote=repository, search=search, offset=offset, limit=limit)
    return models.WaitingList(
        waiting=[_line(line) for line in queue.lines], total=queue.total, offset=offset, limit=limit
    )


@router.post("/{repository}/ship", status_code=202, responses=problems(404, 409))
def ship(request: Request, user: Operator, repository: str, wanted: models.ShipWanted) -> models.RunsAsked:
    """Ship now what waits, of one VM by its folder or of all, at most 500 at once: what waits for its next try begins
    at once, nothing is asked for twice.
    """
    note(request, "repository.ship", repository, wanted.folder or "")
    runs = application_of(request).queue.ship(repository, wanted.folder, who=user.name)
    return models.RunsAsked(runs=[models.Run.model_validate(run) for run in runs])


@router.post("/{repository}/verify", status_code=202, responses=problems(404, 409))
def verify_repository(
    request: Request, user: Operator, repository: str, wanted: models.VerifyWanted
) -> models.RunsAsked:
    """Check every point, in one run for each VM."""
    note(request, "repository.verify", repository)
    runs = application_of(request).queue.verify_all(repository, deep=wanted.deep, who=user.name)
    return models.RunsAsked(runs=[models.Run.model_validate(run) for run in runs])


@router.post("/{repository}/prune", status_code=202, responses=problems(404, 409))
def prune_repository(request: Request, user: Operator, repository: str) -> models.RunsAsked:
    """Remove what no rule keeps, in one run for each VM."""
    note(request, "repository.prune", repository)
    runs = application_of(request).queue.prune_all(repository, who=user.name)
    return models.RunsAsked(runs=[models.Run.model_validate(run) for run in runs])


def _local(place: LocalPlace) -> models.Repository:
    return models.Repository(
        name=place.name,
        path=place.path,
        default=place.default,
        points=place.points,
        bytes_stored=place.space.used if place.space else None,
        problem=in_words(place.problem.message) if place.problem else None,
    )


def _remote(place: RemotePlace) -> models.Repository:
    trouble, waiting = place.trouble, place.waiting
    return models.Repository(
        name=place.name,
        url=place.url,
        default=False,
        copy_of=place.of,
        keep_local=place.keep_local if place.of else None,
        bandwidth=place.rate,
        encrypted=place.encrypted,
        points=place.facts.points,
        bytes_stored=place.facts.bytes,
        shipped_at=place.facts.shipped_at,
        waiting_points=waiting.points,
        waiting_bytes=waiting.bytes,
        waiting_since=waiting.since,
        unshippable_points=place.unshippable.points,
        problem=in_words(trouble.error) if trouble else None,
        problem_code=trouble.error_code if trouble else None,
        hint=in_words(trouble.hint) if trouble else None,
        retry_at=trouble.next_try if trouble else None,
    )


def _line(line: QueueLine) -> models.Waiting:
    return models.Waiting(
        repository=line.waiting.remote,
        folder=line.waiting.folder,
        vm=line.waiting.vm_name,
        vm_uuid=line.waiting.vm_uuid,
        points=sorted(line.waiting.points),
        bytes=line.waiting.bytes,
        since=line.waiting.since,
        run=models.Run.model_validate(line.run) if line.run else None,
    )


def _new(wanted: models.NewRepository) -> NewRemote:
    options: dict[str, str | Sequence[str] | None] = {
        "keep_local": None if wanted.keep_local is KeepLocal.ALL else wanted.keep_local.value,
        "bandwidth": wanted.bandwidth,
        "bandwidth_hours": wanted.bandwidth_hours,
        "recipients": wanted.recipients,
    }
    given = {key: value for key, value in options.items() if value}
    return NewRemote(wanted.name, wanted.url, wanted.prune_url, wanted.copy_of, wanted.only_read, given)
