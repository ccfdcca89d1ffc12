"""GET /healthz: whether the service does what it is there for."""

from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from kvm_backup.bootstrap import Application
from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.runtime.heartbeat import moment_of, read_heartbeat, seconds_since

TICK_LIMIT = timedelta(minutes=3)
LOOK_LIMIT = timedelta(minutes=5)
"""The first look at a host with thousands of VMs takes a while."""

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
def healthz(request: Request) -> JSONResponse:
    """200 when the database answers and the service ticked and looked at its VMs lately, else 503 with what is wrong.

    A libvirt that does not answer is no fault of the service: alerts tell of it.
    """
    application: Application = request.app.state.application
    now = datetime.now(UTC)
    problems = {"database": _database(application), "tick": _tick(application, now), "look": _look(application, now)}
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


def _look(application: Application, now: datetime) -> str | None:
    beat = read_heartbeat(application.settings.state_dir)
    try:
        host = application.inventory.host_facts()
    except KvmBackupError:
        return None  # the database does not answer, which is told
    known = (moment_of(beat.started) if beat else None, host.listed)
    last = max((moment for moment in known if moment is not None), default=None)
    if last is None or host.away_since is not None:
        return None
    since = (now - last).total_seconds()
    return f"the VMs were last looked at {since:.0f} seconds ago" if since > LOOK_LIMIT.total_seconds() else None
