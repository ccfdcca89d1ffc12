"""Messages by which alone some of libvirt's errors can be told apart; each was seen with libvirt 9.0."""

import libvirt
import pytest

from kvm_backup.domain.errors import HypervisorError, VmBusyError, VmStateChangedError, VmStuckError
from kvm_backup.hypervisor.libvirt_errors import our_error


def told_by_libvirt(code: int, message: str) -> libvirt.libvirtError:
    error = libvirt.libvirtError("a call failed")
    error.err = (code, libvirt.VIR_FROM_QEMU, message, libvirt.VIR_ERR_ERROR, None, None, None, 0, 0)
    return error


@pytest.mark.parametrize(
    ("code", "message", "expected", "retryable"),
    [
        (
            libvirt.VIR_ERR_INTERNAL_ERROR,
            "internal error: backup job data missing",
            VmStuckError,
            False,
        ),
        (
            libvirt.VIR_ERR_INTERNAL_ERROR,
            "internal error: unable to execute 'transaction': Source and target image have different sizes",
            VmStateChangedError,
            True,
        ),
        (libvirt.VIR_ERR_OPERATION_INVALID, "another backup job is already running", VmBusyError, True),
        (libvirt.VIR_ERR_INTERNAL_ERROR, "internal error: something else", HypervisorError, False),
    ],
)
def test_the_cause_is_told_by_the_class_and_a_hint(
    code: int, message: str, expected: type[HypervisorError], retryable: bool
) -> None:
    told = our_error(told_by_libvirt(code, message), "web")
    assert type(told) is expected
    assert told.retryable is retryable
    assert "web" in told.message
    assert told.hint
