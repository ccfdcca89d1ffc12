"""What pages and the API let a user plan."""

from kvm_backup.bootstrap import Application
from kvm_backup.domain.errors import InvalidScheduleError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.schedule import Schedule


def check_repository(application: Application, wanted: str, schedule: Schedule | None = None) -> None:
    """Raises InvalidScheduleError for a repository that the settings do not name, unless the schedule has it already.

    Which other folders of this host may be written to is root's to say, on the command line.
    """
    wanted = wanted.strip()
    allowed = {"", *application.settings.repositories(), (schedule.repository or "") if schedule else ""}
    if wanted not in allowed:
        choices = ", ".join(sorted(application.settings.repositories()))
        raise InvalidScheduleError("repository", wanted, phrase("one of {choices}", choices=choices))
