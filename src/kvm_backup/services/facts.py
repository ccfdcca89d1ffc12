"""The services that front ends ask for facts; they only read tables."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from kvm_backup.database.alerts import Alerts
from kvm_backup.database.engine import Database
from kvm_backup.database.history import History
from kvm_backup.database.inventory import Inventory
from kvm_backup.database.statistics import Statistics
from kvm_backup.domain.alert import Condition
from kvm_backup.services.alerts import AlertService
from kvm_backup.services.calendar import CalendarService
from kvm_backup.services.overview import OverviewService
from kvm_backup.services.schedules.file import ScheduleFile


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one host."""

    inventory: Inventory
    statistics: Statistics
    alerts: AlertService
    calendar: CalendarService
    overview: OverviewService


def make_facts(
    database: Database,
    history: History,
    schedule_file: ScheduleFile,
    *,
    host: str,
    zone: ZoneInfo,
    clock: Callable[[], datetime],
    daemon: Callable[[], Condition | None],
) -> Facts:
    """Put them together. `daemon` gives what is wrong with the service, None while it ticks."""
    inventory = Inventory(database, host)
    statistics = Statistics(database, host, zone)
    alerts = AlertService(Alerts(database, host), daemon, host, clock)
    calendar = CalendarService(statistics, history, host, zone, clock)
    overview = OverviewService(
        inventory=inventory,
        statistics=statistics,
        history=history,
        alerts=alerts,
        calendar=calendar,
        schedule_file=schedule_file,
        host=host,
        clock=clock,
    )
    return Facts(inventory, statistics, alerts, calendar, overview)
