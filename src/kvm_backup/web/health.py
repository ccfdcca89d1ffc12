"""GET /healthz: whether the service does what it is there for."""

from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from kvm_backup.bootstrap import Application
from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.runtime.heartbeat import read_heartbeat, seconds_since

TICK_LIMIT = timedelta(minutes=3)

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
def healthz(request: Request) -> JSONResponse:
    """200 when the database answers and the service ticked lately, else 503 with what is wrong."""
    application: Application = request.app.state.application
    problems = {"database": _database(application), "tick": _tick(application, datetime.now(UTC))}
    found = {name: problem for name, problem in problems.items() if problem}
    checks = {name: found.get(name, "ok") for name in problems}
    return JSONResponse({"status": "failing" if found else "ok", **checks}, 503 if found else 200)


def _database(application: Application) -> str | None:
    try:
        application.history.pulse()
    except KvmBackupError as error:
        # The message names files and servers, which are nobody's business who has not logged in.
        return f"does not answer ({error.code})"
    return None


def _tick(application: Application, now: datetime) -> str | None:
    if not application.service_runs():
        return "the service does not run"
    beat = read_heartbeat(application.settings.state_dir)
    since = seconds_since(beat.ticked, now) if beat else None
    if since is None:
        return "the service has not ticked yet"
    return f"the last tick was {since:.0f} seconds ago" if abs(since) > TICK_LIMIT.total_seconds() else None
