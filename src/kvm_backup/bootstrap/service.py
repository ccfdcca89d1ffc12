"""The service: what it is made of, and what goes on in it."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from kvm_backup.database.name_claim import NameClaim
from kvm_backup.domain.errors import KvmBackupError
from kvm_backup.runtime.daemon import Activity, Daemon, OnStop, oldest_remembered
from kvm_backup.runtime.observer import Observer
from kvm_backup.runtime.queue import DurableQueue
from kvm_backup.runtime.recovery import mark_lost_runs
from kvm_backup.runtime.shipper import Shipper
from kvm_backup.runtime.status import settle_schedule
from kvm_backup.runtime.tick import Scheduler
from kvm_backup.runtime.work import Work
from kvm_backup.runtime.workflows import RunWorkflow
from kvm_backup.services.run_log import make_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from kvm_backup.bootstrap import Application
    from kvm_backup.domain.request import RunRequest


def make_service(
    parts: Application, say: Callable[[str], None], beside: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Daemon:
    """The service, and what goes on beside it (Daemon.beside).

    `say` is told what a person should read, from several threads.
    """
    if parts.live is not None:
        parts.live.say = say
    activity = Activity(OnStop(parts.settings.scheduler.on_stop))
    work = Work(
        history=parts.history,
        log=make_log(parts.log_file, host=parts.host),
        find_vm=lambda name: parts.hypervisor.vm(name),
        backup_service=lambda repository, listener, stop_requested: parts.work.backup_service(
            parts.repository(repository), listener, stop_requested
        ),
        tasks=replace(parts.work.tasks, goes_on=activity.stopping),
        say=say,
    )
    state_dir = parts.state_dir()
    claim = NameClaim(parts.database, parts.host)

    def settled(request: RunRequest) -> None:
        def later(error: KvmBackupError) -> None:
            say(f"{request.vm}: what it waits to ship is asked for within the hour: {error.message}")

        try:
            # A run that is cut off here is settled again; what was asked for is not asked for twice.
            parts.queue.asking.enqueue_all(parts.shipments.after(request, later))
            parts.queue.asking.follow(request)
        except KvmBackupError as error:
            later(error)
        settle_schedule(parts.schedule_file, parts.history, request.schedule_id)

    def make_queue() -> DurableQueue:
        workflow = RunWorkflow(
            history=parts.history,
            recorder=work.recorder,
            perform=work.perform,
            prune=lambda request, listener: parts.work.prune_after_backup(
                request.vm, request.repository, listener, activity.stopping
            ),
            enqueue=lambda request, delay: queue.client.enqueue(request, delay=delay),
            settled=settled,
            clock=lambda: datetime.now(UTC),
            stopping=activity.stopping,
            pause=activity.pause,
            say=say,
            script_timeout=parts.settings.hooks.timeout,
        )
        queue = DurableQueue(
            database_url=parts.queue.url,
            host=parts.host,
            parallel=parts.settings.scheduler.parallel,
            execute=activity.counted(workflow),
            say=say,
        )
        return queue

    def make_tick(queue: DurableQueue) -> Callable[[], object]:
        scheduler = Scheduler(
            file=parts.schedule_file,
            history=parts.history,
            enqueue=queue.client.enqueue,
            zone=parts.zone,
            clock=lambda: datetime.now(UTC),
            say=say,
            host=parts.host,
            repository=parts.repositories.lasting_name(None),
            catch_up=parts.settings.scheduler.catch_up,
        )

        def tick() -> object:
            claim.renew()
            scheduler.repository = parts.repositories.lasting_name(None)
            return scheduler.tick()

        return tick

    def housekeeping(queue: DurableQueue, now: datetime) -> None:
        mark_lost_runs(
            parts.history,
            parts.own_runs,
            queue.client.live_runs,
            host=parts.host,
            now=now,
            say=say,
            settled=lambda schedule: settle_schedule(parts.schedule_file, parts.history, schedule),
        )
        queue.client.forget_ended(oldest_remembered(now))
        oldest = now - timedelta(days=parts.settings.database.keep_days)
        parts.history.delete_older_than(oldest)
        parts.access.forget_old(oldest)
        parts.alerts.forget_old(oldest)
        parts.shipping.fetched.forget_old()

    @contextmanager
    def observed() -> Iterator[None]:
        observer = Observer(parts.survey, parts.alerts, say)
        shipper = Shipper(
            ask=lambda: parts.queue.asking.enqueue_all(parts.shipments.unasked(say)),
            revision=parts.shipments.revision,
            say=say,
        )
        with claim.held(), observer.watching(), shipper.watching(), beside():
            yield

    return Daemon(
        state_dir=state_dir,
        host=parts.host,
        activity=activity,
        make_queue=make_queue,
        make_tick=make_tick,
        housekeeping=housekeeping,
        say=say,
        beside=observed,
    )
