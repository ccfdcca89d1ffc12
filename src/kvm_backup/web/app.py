"""The dashboard as one ASGI application: its routers, and what every request passes through."""

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI

from kvm_backup import __version__
from kvm_backup.bootstrap import Application
from kvm_backup.domain.run import Run
from kvm_backup.services.run_log import make_log
from kvm_backup.web import assets, health, metrics, preferences
from kvm_backup.web.api import docs
from kvm_backup.web.assets import Assets
from kvm_backup.web.context import make_environment
from kvm_backup.web.errors import IncidentMiddleware, add_error_pages
from kvm_backup.web.heads import HeadMiddleware
from kvm_backup.web.language import LanguageMiddleware
from kvm_backup.web.live import events
from kvm_backup.web.live.hub import Hub, Sources
from kvm_backup.web.live.progress import Progress
from kvm_backup.web.once import Once
from kvm_backup.web.pages import (
    account,
    administration,
    alerts,
    login,
    overview,
    points,
    repositories,
    repository_form,
    runs,
    schedule_form,
    schedules,
    vms,
)
from kvm_backup.web.security.access import AccessMiddleware
from kvm_backup.web.security.headers import SecurityHeadersMiddleware
from kvm_backup.web.security.hosts import HostMiddleware, own_names

ROUTERS: tuple[APIRouter, ...] = (
    assets.router,
    preferences.router,
    health.router,
    metrics.router,
    events.router,
    login.router,
    account.router,
    administration.router,
    overview.router,
    schedule_form.router,
    schedules.router,
    alerts.router,
    runs.router,
    vms.router,
    points.router,
    repository_form.router,
    repositories.router,
)


def make_app(application: Application, on_ready: Callable[[], None] = lambda: None) -> FastAPI:
    """Everything that is served; `on_ready` is called once requests are answered.

    Raises SettingsError, DatabaseError, StorageError.
    """
    app = FastAPI(
        title="KVM Backup",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    state = app.state
    state.application = application
    state.on_ready = on_ready
    state.log = make_log(application.log_file, host=application.host)
    state.assets = Assets.load()
    state.templates = make_environment(state.assets, application.zone)
    state.once = Once()
    state.count_alerts = application.alerts.count_open_unacknowledged
    state.hub = Hub(
        Sources(
            pulse=application.history.pulse,
            marks=_marks(application),
            alerts=state.count_alerts,
            show_run=_show_run(state.templates),
            show_badge=lambda count: str(state.templates.get_template("macros/badge.html").module.alert_count(count)),
        )
    )
    for router in ROUTERS:
        app.include_router(router)
    docs.mount(app)
    add_error_pages(app)
    # The last one added is the first that a request meets.
    app.add_middleware(HeadMiddleware)
    app.add_middleware(AccessMiddleware, application=application)
    app.add_middleware(IncidentMiddleware)
    app.add_middleware(LanguageMiddleware)
    app.add_middleware(
        HostMiddleware, names=own_names([application.settings.web.host, *application.settings.web.allowed_hosts])
    )
    app.add_middleware(SecurityHeadersMiddleware)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    looking = asyncio.create_task(app.state.hub.run())
    app.state.on_ready()
    yield
    app.state.hub.close()
    await looking


def _marks(application: Application) -> dict[str, Callable[[], Hashable]]:
    """For each signal but `runs`, what differs once something changed; looked at each second."""

    def schedules() -> Hashable:
        status = application.schedule_file.path.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size

    def vms() -> Hashable:
        return application.survey.revision

    def alerts() -> Hashable:
        return application.alerts.revision

    def shipping() -> Hashable:
        return application.shipping.facts.revision, tuple(application.shipping.remotes)

    return {"schedules": schedules, "vms": vms, "alerts": alerts, "shipping": shipping}


def _show_run(templates: Any) -> Callable[[Run, Progress], str]:
    def show(run: Run, progress: Progress) -> str:
        return str(templates.get_template("macros/progress.html").module.run_progress(run, progress))

    return show
