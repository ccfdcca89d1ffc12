"""What pages and the API let a user restore to."""

from typing import Literal

from kvm_backup.domain.account import Account, Role
from kvm_backup.domain.errors import BadArgumentError, ForbiddenError, NotConfirmedError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Manifest
from kvm_backup.domain.task import AsNewVm, InPlace, RestoreTarget, ToFolder

WAYS = ("new-vm", "in-place", "folder")


def restore_target(
    user: Account,
    point: Manifest,
    *,
    way: str,
    name: str | None = None,
    start: bool = False,
    confirm: str | None = None,
    stop: bool = False,
    disks_in: str | None = None,
    folder: str | None = None,
    image_format: Literal["qcow2", "raw"] = "qcow2",
) -> RestoreTarget:
    """The target that was asked for.

    Raises ForbiddenError (only an administrator may say where root writes), NotConfirmedError, BadArgumentError.
    """
    disks_in = (disks_in or "").strip() or None
    if (disks_in or way == "folder") and not user.role.covers(Role.ADMINISTRATOR):
        raise ForbiddenError(
            phrase("only an administrator may choose the folder"), hint=phrase("Leave the folder empty.")
        )
    match way:
        case "new-vm":
            if not (name or "").strip():
                raise BadArgumentError(
                    phrase("the new virtual machine has no name"), hint=phrase("Give it one that no other has.")
                )
            return AsNewVm((name or "").strip(), disks_in, start=start)
        case "in-place":
            if (confirm or "").strip() != point.vm_name:
                raise NotConfirmedError(
                    phrase("the restore in place is not confirmed"),
                    hint=phrase("Type the name of the virtual machine to confirm: {name}", name=point.vm_name),
                )
            return InPlace(disks_in, stop=stop)
        case "folder":
            return ToFolder((folder or "").strip(), image_format)
    raise BadArgumentError(phrase("{way!r} is no way to restore", way=way), hint=phrase("Choose one of the list."))
