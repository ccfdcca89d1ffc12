"""Freezing and thawing the guest's file systems through its QEMU guest agent.

A frozen guest hangs, so the rules are: no call waits longer than it was given, and whoever froze, or may have
frozen, thaws. libvirt waits for an agent's answer for ever unless told otherwise; the limit is set for each call and
put back to libvirt's default afterwards. A freeze that timed out may still happen inside the guest later.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import libvirt
import libvirt_qemu

from kvm_backup.domain.errors import KvmBackupError, VmNotFoundError
from kvm_backup.domain.vm import VmState
from kvm_backup.hypervisor.connection import Hypervisor
from kvm_backup.hypervisor.libvirt_errors import our_error

THAW_PATIENCE = 30.0
"""Seconds to keep trying to thaw a guest whose agent does not answer."""

_NO_AGENT_CODES = frozenset(
    {libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED, libvirt.VIR_ERR_CONFIG_UNSUPPORTED, libvirt.VIR_ERR_NO_SUPPORT}
)


class Freeze(StrEnum):
    FROZEN = "frozen"
    NO_AGENT = "no-agent"
    """No agent is configured or connected; nothing was asked of the guest."""
    UNRESPONSIVE = "unresponsive"
    """An agent is connected and does not answer. A freeze was not asked for: it could come at any later time."""
    FAILED = "failed"


class Thaw(StrEnum):
    THAWED = "thawed"
    NOT_NEEDED = "not-needed"
    """The VM is off or has no agent connected that could have frozen it."""
    UNCONFIRMED = "unconfirmed"
    """The agent did not confirm; file systems may still be frozen."""


@dataclass(frozen=True, slots=True)
class FreezeOutcome:
    """`count` is the number of frozen file systems; `reason` is in words, for all but FROZEN."""

    result: Freeze
    count: int = 0
    reason: str | None = None

    @property
    def needs_thaw(self) -> bool:
        """Whether `thaw` must be called: also after a failure, which may have come too late or half way."""
        return self.result in (Freeze.FROZEN, Freeze.FAILED)


@dataclass(frozen=True, slots=True)
class ThawOutcome:
    """What became of a thaw; `reason` is in words when it is UNCONFIRMED."""

    result: Thaw
    reason: str | None = None


def freeze(hypervisor: Hypervisor, vm: str, timeout: float = 10.0) -> FreezeOutcome:
    """Freeze all file systems, waiting for at most about `timeout` seconds (whole seconds, at least 1).

    Never raises for what the guest does or does not; raises VmNotFoundError and HypervisorUnavailableError.
    """
    domain = hypervisor.domain(vm)
    if hypervisor.state(vm) is not VmState.RUNNING:
        return FreezeOutcome(Freeze.NO_AGENT, reason="the guest does not run at the moment")
    unresponsive = _silence_of_agent(domain, timeout)
    if unresponsive is not None:
        return unresponsive
    try:
        with _answers_within(domain, timeout):
            return FreezeOutcome(Freeze.FROZEN, count=int(domain.fsFreeze()))
    except libvirt.libvirtError as error:
        words = our_error(error).message
        if _no_agent(error):
            return FreezeOutcome(Freeze.NO_AGENT, reason=words)
        return FreezeOutcome(Freeze.FAILED, reason=words)


def thaw(hypervisor: Hypervisor, vm: str, timeout: float = 5.0, patience: float = THAW_PATIENCE) -> ThawOutcome:
    """Thaw all file systems; harmless when none is frozen. Never raises one of our errors.

    Each call waits for `timeout` seconds; calls are repeated for `patience` seconds until the agent confirms.
    """
    deadline = time.monotonic() + patience
    while True:
        outcome = _try_thaw(hypervisor, vm, timeout)
        if outcome.result is not Thaw.UNCONFIRMED or time.monotonic() >= deadline:
            return outcome
        time.sleep(min(0.5, max(0.0, deadline - time.monotonic())))


def frozen(hypervisor: Hypervisor, vm: str, timeout: float = 5.0) -> bool | None:
    """Whether the guest's file systems are frozen; None when there is no answer.

    libvirt has no call of its own for this, so the agent is asked directly, which libvirt notes in the VM's log.
    """
    try:
        domain = hypervisor.domain(vm)
        if hypervisor.state(vm) is not VmState.RUNNING:
            return None
        reply = libvirt_qemu.qemuAgentCommand(
            domain, json.dumps({"execute": "guest-fsfreeze-status"}), _seconds(timeout), 0
        )
        return bool(json.loads(reply).get("return") == "frozen")
    except (libvirt.libvirtError, KvmBackupError, ValueError, AttributeError):
        return None


def _silence_of_agent(domain: Any, timeout: float) -> FreezeOutcome | None:
    """None when the agent answers a harmless question, be it with an error of its own."""
    try:
        with _answers_within(domain, timeout):
            domain.getTime()
    except libvirt.libvirtError as error:
        if _no_agent(error):
            return FreezeOutcome(Freeze.NO_AGENT, reason=our_error(error).message)
        if error.get_error_code() == libvirt.VIR_ERR_AGENT_UNRESPONSIVE:
            return FreezeOutcome(Freeze.UNRESPONSIVE, reason=our_error(error).message)
    return None


def _try_thaw(hypervisor: Hypervisor, vm: str, timeout: float) -> ThawOutcome:
    try:
        domain = hypervisor.domain(vm)
        if not domain.isActive():
            return ThawOutcome(Thaw.NOT_NEEDED)
        with _answers_within(domain, timeout):
            domain.fsThaw()
        return ThawOutcome(Thaw.THAWED)
    except VmNotFoundError:
        return ThawOutcome(Thaw.NOT_NEEDED)
    except KvmBackupError as error:
        return ThawOutcome(Thaw.UNCONFIRMED, error.message)
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, *_NO_AGENT_CODES):
            return ThawOutcome(Thaw.NOT_NEEDED)
        return ThawOutcome(Thaw.UNCONFIRMED, our_error(error).message)


@contextmanager
def _answers_within(domain: Any, timeout: float) -> Iterator[None]:
    domain.agentSetResponseTimeout(_seconds(timeout), 0)
    try:
        yield
    finally:
        # It fails when the VM was shut down meanwhile, and then the limit is gone with it.
        with suppress(libvirt.libvirtError):
            domain.agentSetResponseTimeout(libvirt.VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK, 0)


def _seconds(timeout: float) -> int:
    return max(1, round(timeout))


def _no_agent(error: libvirt.libvirtError) -> bool:
    # "not connected" has the same code as "did not answer", of which only the latter may still freeze the guest.
    return error.get_error_code() in _NO_AGENT_CODES or (
        error.get_error_code() == libvirt.VIR_ERR_AGENT_UNRESPONSIVE
        and "not connected" in (error.get_error_message() or "")
    )
