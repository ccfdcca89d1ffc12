"""The host as a whole: what the first page shows, and its repositories."""

from fastapi import APIRouter, Request

from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.web.api.v1 import models
from kvm_backup.web.api.v1.answers import problems, schedule_of
from kvm_backup.web.language import in_words
from kvm_backup.web.security.access import Operator, Viewer, application_of
from kvm_backup.web.security.audit import note

router = APIRouter(tags=["host"])


@router.get("/overview", responses=problems())
def get_overview(request: Request, user: Viewer) -> models.Overview:  # noqa: ARG001
    """What the first page shows."""
    facts = application_of(request).overview.read()
    return models.Overview(
        now=facts.now,
        host=application_of(request).host,
        libvirt_listed=facts.host.listed,
        libvirt_away_since=facts.host.away_since,
        protection=models.ProtectionCounts.model_validate(facts.protection),
        unacknowledged=facts.unacknowledged,
        running=facts.running,
        queued=facts.queued,
        waiting=facts.waiting,
        schedules=facts.schedules,
        schedules_enabled=facts.schedules_enabled,
        next=[schedule_of(schedule) for schedule in facts.coming],
        space=[
            models.Space(
                repository=one.name,
                at=one.last.at,
                used=one.last.used,
                free=one.last.free,
                total=one.last.total,
                growth=one.growth,
                full_in_days=one.full_in_days,
            )
            for one in facts.space
        ],
        days=[
            models.Day(
                day=day.day.isoformat(),
                succeeded=day.succeeded,
                failed=day.failed,
                cancelled=day.cancelled,
                bytes_read=day.bytes_read,
                bytes_stored=day.bytes_stored,
            )
            for day in facts.days
        ],
    )


@router.get("/repositories", responses=problems())
def list_repositories(request: Request, user: Viewer) -> models.RepositoryList:  # noqa: ARG001
    """The repositories of the settings."""
    application = application_of(request)
    found = []
    for name, path in sorted(application.settings.repositories().items()):
        problem = None
        try:
            application.repository(name)
        except KvmBackupError as error:
            problem = in_words(error.message)
        default = name == application.settings.default_repository
        found.append(models.Repository(name=name, path=str(path), default=default, problem=problem))
    return models.RepositoryList(repositories=found)


@router.post("/repositories/{repository}/verify", status_code=202, responses=problems(404, 409))
def verify_repository(
    request: Request, user: Operator, repository: str, wanted: models.VerifyWanted
) -> models.RunsAsked:
    """Check every point, in one run for each VM."""
    note(request, "repository.verify", repository)
    runs = application_of(request).request_verify_all(repository, deep=wanted.deep, who=user.name)
    return models.RunsAsked(runs=[models.Run.model_validate(run) for run in runs])


@router.post("/repositories/{repository}/prune", status_code=202, responses=problems(404, 409))
def prune_repository(request: Request, user: Operator, repository: str) -> models.RunsAsked:
    """Remove what no rule keeps, in one run for each VM."""
    note(request, "repository.prune", repository)
    runs = application_of(request).request_prune_all(repository, who=user.name)
    return models.RunsAsked(runs=[models.Run.model_validate(run) for run in runs])
