"""What can be done with schedules, at a fixed time, and that bad input changes nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from kvm_backup.domain.errors import (
    HypervisorUnavailableError,
    InvalidScheduleError,
    ScheduleChangedError,
    ScheduleNotFoundError,
)
from kvm_backup.domain.retention import RetentionWish
from kvm_backup.domain.schedule import Schedule, ScheduleStatus
from kvm_backup.domain.vm import Vm, VmState
from kvm_backup.services.schedules.commands import (
    Changes,
    NewSchedule,
    ScheduleService,
    revision,
    short_ids,
    warnings_about,
)
from kvm_backup.services.schedules.file import ScheduleFile

PARIS = ZoneInfo("Europe/Paris")
SUNDAY = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)  # 02:00 in Paris


@dataclass
class Clock:
    now: datetime = SUNDAY
    vms: Sequence[Vm] | Exception = field(default_factory=list)

    def __call__(self) -> datetime:
        return self.now

    def list_vms(self) -> Sequence[Vm]:
        if isinstance(self.vms, Exception):
            raise self.vms
        return self.vms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(tmp_path: Path, clock: Clock) -> ScheduleService:
    return ScheduleService(ScheduleFile(tmp_path, PARIS), PARIS, clock, clock.list_vms, only_nas, copies_of_nas)


def only_nas(repository: str) -> str:
    if repository != "nas":
        raise InvalidScheduleError("repository", repository, "nas")
    return repository


def copies_of_nas(names: Sequence[str], repository: str | None) -> None:
    for name in names:
        if repository != "nas" or name not in ("away", "tape"):
            raise InvalidScheduleError("ship_to", name, "away, tape")


def new(name: str = "Nom", **changes: Any) -> NewSchedule:
    usual = {"schedule_type": "daily", "schedule_time": "02:00", "backup_mode": "incremental"}
    return NewSchedule(name, **{"vm_names": ["vm1", "vm2"]} | usual | changes)


def add(service: ScheduleService, name: str = "Nom", **changes: Any) -> Schedule:
    return service.add(new(name, **changes))


def with_ids(service: ScheduleService, *ids: str) -> None:
    service.file.update(lambda _: [Schedule(own, f"name of {own}", ("web",), "daily", "02:00") for own in ids])


def test_a_new_schedule_is_planned_and_kept(service: ScheduleService) -> None:
    made = add(service)
    assert service.all() == (made,)
    assert (made.name, made.vm_names) == ("Nom", ("vm1", "vm2"))
    assert len(made.id) == 32
    assert made.next_run == datetime(2026, 11, 23, 1, 0, tzinfo=UTC)
    assert made.created_at == SUNDAY


def test_a_weekly_schedule_made_on_its_day_before_its_hour_runs_today(service: ScheduleService) -> None:
    made = add(service, schedule_type="weekly", schedule_time="Dimanche:03:00")
    assert made.next_run == datetime(2026, 11, 22, 2, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda service: add(service, schedule_type="yearly"), "schedule_type"),
        (lambda service: add(service, schedule_time="25:00"), "schedule_time"),
        (lambda service: add(service, schedule_type="weekly", schedule_time="sunday"), "schedule_time"),
        (lambda service: add(service, schedule_type="monthly", schedule_time="32:04:00"), "schedule_time"),
        (lambda service: add(service, backup_mode="differential"), "backup_mode"),
        (lambda service: add(service, ""), "name"),
        (lambda service: add(service, "  "), "name"),
        (lambda service: add(service, "nightly"), "name"),  # there is one, with a capital
        (lambda service: add(service, "a\x1b[31m"), "name"),
        (lambda service: add(service, "a\nb"), "name"),
        (lambda service: add(service, "a\u202eb"), "name"),
        (lambda service: add(service, "\udcff"), "name"),
        (lambda service: add(service, "x" * 101), "name"),
        (lambda service: add(service, vm_names=[]), "vm_names"),
        (lambda service: add(service, vm_names=[""]), "vm_names"),
        (lambda service: add(service, vm_names=["a\tb"]), "vm_names"),
        (lambda service: add(service, vm_names=["a" * 256]), "vm_names"),
        (lambda service: add(service, vm_names=[f"vm{n}" for n in range(1001)]), "vm_names"),
        (lambda service: add(service, repository="usb"), "repository"),
        (lambda service: add(service, pre_script="say 'it"), "pre_script"),
        (lambda service: add(service, pre_script="''"), "pre_script"),
        (lambda service: add(service, post_script="a\nb"), "post_script"),
        (lambda service: add(service, post_script="x" * 4097), "post_script"),
        (lambda service: add(service, keep={"last": "0"}), "keep_last"),
        (lambda service: add(service, keep={"daily": "-1"}), "keep_daily"),
        (lambda service: add(service, keep={"weekly": "many"}), "keep_weekly"),
        (lambda service: add(service, keep={"monthly": "1.5"}), "keep_monthly"),
        (lambda service: add(service, keep={"yearly": "10001"}), "keep_yearly"),
        (lambda service: add(service, keep={"yearly": "\u0663"}), "keep_yearly"),
        (lambda service: add(service, keep={"yearly": "9" * 5000}), "keep_yearly"),
        (lambda service: service.edit("a", Changes(repository="usb")), "repository"),
        (lambda service: service.edit("a", Changes(keep={"daily": "x"})), "keep_daily"),
        (lambda service: service.edit("a", Changes(schedule_time="25:00")), "schedule_time"),
        (lambda service: service.edit("a", Changes(schedule_time="")), "schedule_time"),
        (lambda service: service.edit("a", Changes(schedule_type="weekly")), "schedule_time"),
        (lambda service: service.edit("a", Changes(name="OTHER")), "name"),
        (lambda service: service.edit("a", Changes(vm_names=[""])), "vm_names"),
        (lambda service: service.edit("a", Changes(backup_mode="")), "backup_mode"),
    ],
)
def test_bad_input_names_its_field_and_changes_nothing(
    service: ScheduleService, change: Callable[[ScheduleService], object], named: str
) -> None:
    with_ids(service, "a", "b")
    service.edit("a", Changes(name="Nightly"))
    service.edit("b", Changes(name="Other"))
    before = service.file.path.read_bytes()
    with pytest.raises(InvalidScheduleError) as caught:
        change(service)
    assert caught.value.field == named
    assert caught.value.expected in caught.value.hint
    assert len(caught.value.message) < 500
    assert service.file.path.read_bytes() == before


@pytest.mark.parametrize("wanted", ["", "c", "abc", "abcd000", "abcd1234x", "ABCD1234"])
def test_an_unknown_or_ambiguous_id_changes_nothing(service: ScheduleService, wanted: str) -> None:
    with_ids(service, "abcd1234", "abcd0001", "abcd0002")
    before = service.file.path.read_bytes()
    for change in (service.enable, service.disable, service.remove, service.find):
        with pytest.raises(ScheduleNotFoundError):
            change(wanted)
    with pytest.raises(ScheduleNotFoundError):
        service.edit(wanted, Changes(name="x"))
    assert service.file.path.read_bytes() == before


def test_a_unique_beginning_or_the_whole_id_is_enough(service: ScheduleService) -> None:
    with_ids(service, "abcd", "abcd12", "ff")
    assert service.find("abcd").id == "abcd"  # whole, though another begins with it
    assert service.find("abcd1").id == "abcd12"
    assert service.remove("f").id == "ff"
    assert [schedule.id for schedule in service.all()] == ["abcd", "abcd12"]


def test_editing_plans_anew_only_when_the_time_changes(service: ScheduleService, clock: Clock) -> None:
    made = add(service)
    clock.now = datetime(2026, 11, 30, tzinfo=UTC)
    renamed = service.edit(made.id, Changes(name=" Été ", vm_names=["b", "a", "b"], backup_mode="full"))
    assert renamed == replace(made, name="Été", vm_names=("b", "a"), backup_mode=renamed.backup_mode)
    assert renamed.backup_mode.value == "full"
    moved = service.edit(made.id, Changes(schedule_type="weekly", schedule_time="monday:03:00"))
    assert moved.next_run == datetime(2026, 11, 30, 2, 0, tzinfo=UTC)
    service.disable(made.id)
    assert service.edit(made.id, Changes(schedule_time="monday:05:00")).next_run is None


def test_repository_scripts_and_retention_are_kept_changed_one_by_one_and_removed(service: ScheduleService) -> None:
    made = add(
        service,
        repository=" nas ",
        pre_script="/bin/before 'two words' $HOME;reboot",
        post_script="/bin/after",
        keep={"daily": "30", "weekly": " 8 "},
    )
    assert made.pre_script == ("/bin/before", "two words", "$HOME;reboot")
    assert (made.repository, made.post_script) == ("nas", ("/bin/after",))
    assert made.retention == RetentionWish(daily=30, weekly=8)
    changed = service.edit(made.id, Changes(post_script="", keep={"weekly": "", "last": "24"}))
    assert changed == replace(made, post_script=(), retention=RetentionWish(last=24, daily=30))
    assert service.edit(made.id, Changes(repository="")) == replace(changed, repository=None)
    assert service.all() == (replace(changed, repository=None),)


def test_remotes_are_kept_each_once_and_none_is_not_the_same_as_every_one(service: ScheduleService) -> None:
    assert add(service, name="every").ship_to is None
    made = add(service, repository="nas", ship_to=["away", " tape", "away"])
    assert service.find(made.id).ship_to == ("away", "tape")
    assert service.edit(made.id, Changes(name="Other")).ship_to == ("away", "tape")
    assert service.edit(made.id, Changes(ship_to=["none"])).ship_to == ()
    assert service.find(made.id).ship_to == ()
    assert service.edit(made.id, Changes(ship_to=["default"])).ship_to is None


def test_remotes_of_another_repository_are_refused_also_when_the_repository_changes(service: ScheduleService) -> None:
    made = add(service, repository="nas", ship_to=["away"])
    for changes in (Changes(ship_to=["away", "home"]), Changes(repository="")):
        with pytest.raises(InvalidScheduleError) as caught:
            service.edit(made.id, changes)
        assert caught.value.field == "ship_to"
    with pytest.raises(InvalidScheduleError):
        add(service, name="default repository", ship_to=["away"])
    assert service.all() == (made,)
    assert service.edit(made.id, Changes(repository="", ship_to=["none"])).repository is None


@pytest.mark.parametrize("names", [["none", "away"], ["default", "away"], ["", "away"], ["a\nb"], ["x" * 101]])
def test_words_that_are_no_remotes_are_refused(service: ScheduleService, names: list[str]) -> None:
    assert [problem.field for problem in service.problems(new(ship_to=names))] == ["ship_to"]


def test_remotes_are_part_of_what_another_user_sees_changed(service: ScheduleService) -> None:
    made = add(service, repository="nas", ship_to=["away"])
    known = revision(made)
    service.edit(made.id, Changes(ship_to=["none"]))
    with pytest.raises(ScheduleChangedError):
        service.edit(made.id, Changes(name="Other"), known=known)


def test_what_passed_while_disabled_is_not_made_up_for(service: ScheduleService, clock: Clock) -> None:
    made = add(service)
    disabled = service.disable(made.id)
    assert (disabled.enabled, disabled.next_run) == (False, None)
    clock.now = datetime(2026, 12, 24, 12, 0, tzinfo=UTC)
    assert service.due() == []
    enabled = service.enable(made.id)
    assert (enabled.enabled, enabled.next_run) == (True, datetime(2026, 12, 25, 1, 0, tzinfo=UTC))
    clock.now = datetime(2026, 12, 26, tzinfo=UTC)
    assert service.enable(made.id) == enabled  # it was: a run that is overdue stays so


def test_due_are_the_enabled_whose_time_has_come_longest_overdue_first(
    service: ScheduleService, clock: Clock
) -> None:
    late, soon, off = add(service, "late"), add(service, "soon", schedule_time="01:30"), add(service, "off")
    service.disable(off.id)
    clock.now = datetime(2026, 11, 23, 0, 59, 59, tzinfo=UTC)
    assert service.due() == [soon]
    clock.now = datetime(2026, 11, 23, 1, 0, tzinfo=UTC)
    assert service.due() == [soon, late]


def test_a_run_by_hand_is_noted_and_leaves_the_next_time(service: ScheduleService) -> None:
    made = add(service)
    service.record_run(made.id, SUNDAY, succeeded=False)
    assert service.all() == (replace(made, last_run=SUNDAY, status=ScheduleStatus.FAILED),)
    service.record_run(made.id, SUNDAY, succeeded=True)
    assert service.all() == (replace(made, last_run=SUNDAY),)
    later = SUNDAY + timedelta(hours=1)
    service.record_run(made.id, later, succeeded=None)
    assert service.all() == (replace(made, last_run=later),)
    service.remove(made.id)
    service.record_run(made.id, SUNDAY, succeeded=True)
    assert service.all() == ()


def test_an_edit_of_what_somebody_changed_meanwhile_is_refused(service: ScheduleService) -> None:
    seen = add(service)
    service.edit(seen.id, Changes(schedule_time="03:00"))
    with pytest.raises(ScheduleChangedError) as caught:
        service.edit(seen.id, Changes(name="Mine"), known=revision(seen))
    assert "Nom" in caught.value.message
    now = service.find(seen.id)
    assert (now.name, now.schedule_time) == ("Nom", "03:00")
    assert service.edit(seen.id, Changes(name="Mine"), known=revision(now)).name == "Mine"


def test_that_a_schedule_ran_or_was_disabled_meanwhile_keeps_nobody_from_editing_it(service: ScheduleService) -> None:
    seen = add(service)
    service.record_run(seen.id, SUNDAY, succeeded=False)
    service.disable(seen.id)
    edited = service.edit(seen.id, Changes(schedule_time="03:00"), known=revision(seen))
    assert (edited.schedule_time, edited.enabled, edited.status) == ("03:00", False, ScheduleStatus.FAILED)


def test_all_that_is_wrong_is_told_at_once_and_nothing_of_the_schedule_that_is_edited(
    service: ScheduleService,
) -> None:
    made = add(service)
    bad = service.problems(
        NewSchedule(
            "nom", [], "weekly", "02:00", "x", repository="usb", pre_script="'", keep={"last": "0", "daily": "3"}
        )
    )
    fields = ["name", "vm_names", "schedule_time", "backup_mode", "repository", "pre_script", "keep_last"]
    assert [problem.field for problem in bad] == fields
    assert service.problems(new("NOM", repository="nas"), own_id=made.id) == []


@pytest.mark.parametrize(
    "change",
    [
        Changes(name="Other"),
        Changes(vm_names=["vm2", "vm1"]),
        Changes(schedule_type="weekly", schedule_time="sunday:02:00"),
        Changes(backup_mode="full"),
        Changes(repository="nas"),
        Changes(pre_script="before"),
        Changes(post_script="after"),
        Changes(keep={"daily": "30"}),
    ],
)
def test_whatever_can_be_edited_makes_another_revision(service: ScheduleService, change: Changes) -> None:
    seen = add(service)
    assert revision(service.edit(seen.id, change)) != revision(seen)


def test_vms_that_the_host_does_not_know_are_told_and_all_while_libvirtd_is_away(
    service: ScheduleService, clock: Clock
) -> None:
    made = add(service, vm_names=["web", "1234", "new"])
    clock.vms = [Vm("web", "u", VmState.RUNNING, ()), Vm("db", "1234", VmState.STOPPED, ())]
    assert warnings_about(service, made) == [("new", None)]
    clock.vms = HypervisorUnavailableError("libvirtd is away", hint="Start it.")
    assert warnings_about(service, made) == [(name, clock.vms) for name in ("web", "1234", "new")]


def test_lists_show_eight_characters_of_an_id_or_as_many_as_tell_it_from_others() -> None:
    ids = ["backup_2026_01", "backup_2026_02", "1a2b3c4d5e6f", "x", "long", "longer-than-eight"]
    short = short_ids(tuple(Schedule(own, own, ("web",), "daily", "02:00") for own in ids))
    assert short == {
        "backup_2026_01": "backup_2026_01",
        "backup_2026_02": "backup_2026_02",
        "1a2b3c4d5e6f": "1a2b3c4d",
        "x": "x",
        "long": "long",
        "longer-than-eight": "longer-t",
    }
