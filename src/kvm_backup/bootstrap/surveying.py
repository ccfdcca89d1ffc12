"""What finds out how things stand, and whether somebody does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvm_backup.bootstrap import Application
    from kvm_backup.domain.alert import Condition
    from kvm_backup.domain.errors import KvmBackupError
    from kvm_backup.services.survey.survey import Survey


def survey_of(parts: Application) -> Survey:
    """What finds the facts out, in the service. Raises DatabaseError, NewerDatabaseError."""
    from kvm_backup.services.survey.survey import make_survey

    return make_survey(
        host=parts.host,
        zone=parts.zone,
        inventory=parts.inventory,
        statistics=parts.statistics,
        history=parts.history,
        schedule_file=parts.schedule_file,
        hypervisor=lambda: parts.hypervisor,
        excluded_disks=parts.rules.excluded_disks,
        catalogue=lambda: parts.catalogue,
        repositories=parts.repositories.in_use,
        lasting_name=parts.repositories.lasting_name,
        folders={"scratch": parts.folders.scratch, "state": parts.state_dir()},
        reserve=parts.settings.backup.space_reserve,
        keep=timedelta(days=parts.settings.database.keep_days),
        settings_problem=partial(_settings_problem, parts),
        shipping=parts.shipping.facts,
    )


def not_ticking(parts: Application) -> Condition | None:
    """What is wrong with the service, as its lock and its last word tell."""
    from kvm_backup.domain import alert
    from kvm_backup.runtime.heartbeat import moment_of, read_heartbeat

    beat = read_heartbeat(parts.settings.state_dir)
    return alert.not_ticking(
        parts.host,
        running=parts.service_runs(),
        started=moment_of(beat.started) if beat else None,
        ticked=moment_of(beat.ticked) if beat else None,
        now=datetime.now(UTC),
    )


def _settings_problem(parts: Application) -> KvmBackupError | None:
    """Why the settings are not those of their file."""
    if parts.live is None:
        return None
    parts.live.current()
    return parts.live.problem
