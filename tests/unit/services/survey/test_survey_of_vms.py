"""What libvirt has becomes the inventory."""

from datetime import timedelta

import pytest

from kvm_backup.domain.alert import AlertKind
from kvm_backup.domain.disk import LeftOut
from kvm_backup.domain.errors import VmNotFoundError
from kvm_backup.domain.inventory import VmDisk
from kvm_backup.domain.protection import Protection
from kvm_backup.domain.run import RunKind, RunState
from kvm_backup.domain.vm import VmState
from tests.unit.services.survey.conftest import DB, NOW, WEB, World, domain_xml


def test_the_first_look_lists_all_vms_with_their_disks(world: World) -> None:
    assert world.look()
    web = world.vm()
    assert (web.name, web.state, web.protection) == ("web", VmState.RUNNING, Protection.UNSCHEDULED)
    assert [disk.target for disk in web.disks] == ["vda", "sda"]
    assert web.disks[1] == VmDisk("sda", web.disks[1].format, web.disks[1].virtual_size, LeftOut.CDROM)
    assert web.virtual_size == web.disks[0].virtual_size
    assert world.inventory.host_facts().listed == NOW


def test_a_look_that_finds_nothing_new_writes_no_row(world: World) -> None:
    world.look()
    assert not world.look(seconds=2)
    assert not world.look(minutes=1)


def test_a_state_is_seen_within_a_minute_and_not_asked_for_before(world: World) -> None:
    world.look()
    world.libvirt.domain("web").destroy()
    world.look(seconds=50)
    assert world.vm().state is VmState.RUNNING
    world.look(seconds=10)
    assert world.vm().state is VmState.STOPPED


def test_a_new_vm_is_seen_with_its_disks_and_a_renamed_one_keeps_its_row(world: World) -> None:
    world.look()
    new = "1a2b3c4f-0000-4000-8000-000000000003"
    world.libvirt.define(domain_xml("mail", new))
    world.libvirt.domain("db").destroy()
    world.libvirt.domain("db").rename("sql")
    world.look(minutes=1)
    assert (world.vm(new).name, len(world.vm(new).disks)) == ("mail", 2)
    assert world.vm(DB).name == "sql"


def test_a_vm_that_a_restore_made_is_seen_at_the_next_look(world: World) -> None:
    world.look()
    new = "1a2b3c4f-0000-4000-8000-000000000003"
    world.libvirt.define(domain_xml("web-restored", new))
    world.run(kind=RunKind.RESTORE, requested_mode=None)
    world.look(seconds=2)
    world.look(seconds=2)
    assert world.vm(new).name == "web-restored"


def test_a_vm_that_is_gone_without_points_is_forgotten(world: World) -> None:
    world.look()
    world.libvirt.domain("db").destroy()
    world.libvirt.domain("db").undefine()
    world.look(minutes=1)
    with pytest.raises(VmNotFoundError):
        world.vm(DB)


def test_a_vm_that_is_gone_with_points_stays_as_it_was_until_it_is_back(world: World) -> None:
    world.point(DB)
    world.look()
    world.libvirt.domain("db").destroy()
    world.look(minutes=1)
    world.libvirt.domain("db").undefine()
    world.look(minutes=1)
    gone = world.vm(DB)
    assert (gone.gone_since, gone.state, gone.points.points) == (world.now, VmState.STOPPED, 1)
    world.look(minutes=5)
    assert world.vm(DB) == gone
    world.libvirt.define(domain_xml("db", DB))
    world.look(minutes=1)
    assert world.vm(DB).gone_since is None


def test_a_vm_that_only_its_points_tell_of_is_listed_as_gone(world: World) -> None:
    world.look()
    world.libvirt.domain("db").destroy()
    world.libvirt.domain("db").undefine()
    world.look(minutes=1)
    world.point(DB)
    world.look(hours=1)
    gone = world.vm(DB)
    assert (gone.name, gone.state, gone.gone_since, gone.points.points) == ("db", None, world.now, 1)


def test_while_libvirt_is_away_all_stays_and_is_told(world: World) -> None:
    world.look()
    world.libvirt_away = True
    world.look(minutes=1)
    away = world.now
    world.look(minutes=1)
    facts = world.inventory.host_facts()
    assert (facts.listed, facts.away_since, facts.away_error) == (NOW, away, "libvirtd does not answer")
    assert world.vm().gone_since is None
    assert [condition.kind for condition in world.wrong()] == [AlertKind.LIBVIRT_AWAY]
    world.libvirt_away = False
    world.look(minutes=1)
    assert world.inventory.host_facts().away_since is None
    assert world.wrong() == []


def test_a_service_that_starts_while_libvirt_is_away_knows_what_was_before(world: World) -> None:
    world.look()
    world.libvirt_away = True
    world.restart()
    world.look(minutes=1)
    assert world.vm(WEB).state is VmState.RUNNING
    assert world.inventory.host_facts().listed == NOW


def test_a_disk_that_was_added_is_seen_within_the_hour(world: World) -> None:
    world.look()
    more = domain_xml("web", WEB).replace(
        "</devices>",
        "<disk type='file' device='disk'><source file='/images/more'/><target dev='vdb'/></disk></devices>",
    )
    world.libvirt.domain("web").destroy()
    world.libvirt.define(more)
    world.look(minutes=59)
    assert len(world.vm().disks) == 2
    world.look(minutes=1)
    assert [disk.target for disk in world.vm().disks] == ["vda", "vdb", "sda"]


def test_the_failed_run_of_a_name_that_no_vm_has_is_told_at_once(world: World) -> None:
    world.schedule("lost")
    world.look()
    assert not world.look(seconds=2)
    world.run(RunState.FAILED, uuid=None, vm_name="lost", error=VmNotFoundError("no VM", hint="See vm list."))
    assert world.look(seconds=2)
    assert set(world.survey.situation().strangers) == {"lost"}


def test_after_a_clock_was_set_back_the_ends_of_runs_are_seen_as_before(world: World) -> None:
    world.look()
    failure = VmNotFoundError("no VM", hint="See vm list.")
    world.now += timedelta(days=365)
    world.run(RunState.FAILED, error=failure)
    world.look(seconds=2)
    assert world.vm().runs.failed_runs == 1
    world.now -= timedelta(days=365)
    world.look(seconds=2)
    world.run(RunState.SUCCEEDED)
    world.look(seconds=2)
    assert world.vm().runs.failed_runs == 0
    world.run(RunState.FAILED, error=failure)
    world.restart()
    world.look(seconds=2)
    assert world.vm().runs.failed_runs == 1
