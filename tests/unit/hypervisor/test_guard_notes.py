import socket
from pathlib import Path

from kvm_backup.hypervisor.guard_process import Plan, watch


def heard(*packets: bytes) -> Plan:
    plan = Plan("uuid", Path("/r/n"), Path("/s"))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for packet in packets:
            ours.sendall(packet)
        ours.shutdown(socket.SHUT_WR)
        watch(theirs, plan)
    return plan


def test_what_was_said_before_the_death_is_known_even_in_pieces() -> None:
    plan = heard(b"free", b"zing\ncheckpoint kvm-backup", b"-0a1b2c3d-1\nbeginning\n")
    assert (plan.frozen, plan.checkpoint, plan.beginning, plan.durable, plan.done) == (
        True,
        "kvm-backup-0a1b2c3d-1",
        True,
        False,
        False,
    )


def test_a_half_said_word_does_not_count() -> None:
    assert heard(b"checkpoint c1\ndur").durable is False
    assert heard(b"checkpoint c1\ndurable\ndon").done is False


def test_a_guest_that_was_thawed_and_a_job_that_began_need_no_more_care() -> None:
    plan = heard(b"freezing\nbeginning\nbegun\nthawed\n")
    assert (plan.frozen, plan.beginning) == (False, False)


def test_after_done_nothing_more_is_heard() -> None:
    assert heard(b"done\n", b"freezing\n").done is True


def test_a_job_is_watched_from_its_begin_to_its_end() -> None:
    assert heard(b"freezing\n").job is False
    assert heard(b"beginning\n").job is True
    assert heard(b"beginning\nbegun\n").job is True
    assert heard(b"beginning\nbegun\nended\n").job is False
