"""A point that a replacement has moved aside, and that nothing has come in the place of, gets its name back.

A replacement takes two renames (scripts.PUBLISH). A server that dies between them has the point under a hidden name
alone; the host that shipped it undoes that with its next shipment, but that host may be lost.
"""

from kvm_backup.domain.names import PARTIAL_PREFIX
from kvm_backup.repository.local import REMOVED_PREFIX
from kvm_backup.repository.ssh.transfer import Transfer

_ASIDE = f"{PARTIAL_PREFIX}old-"

_RECOVER = f"""
cd "$1" || exit 0
for old in ./*--*/{_ASIDE}[0-9]*T[0-9]*Z; do
    vm=${{old%/*}}
    point=${{old##*/{_ASIDE}}}
    [ -d "$old" ] && [ ! -L "$old" ] && [ ! -L "$vm" ] || continue
    for taken in "$vm/$point" "$vm/{REMOVED_PREFIX}$point"; do
        [ ! -e "$taken" ] && [ ! -L "$taken" ] || continue 2
    done
    mv -T "$old" "$vm/$point"
done
:
"""
"""$1 the repository. What stands in the place of a point is left alone, whatever it is, and so is what is being
removed. A replacement that goes on at this very moment fails at its second rename and is tried again, for `mv -T`
moves nothing onto a folder that has files."""


def undo_cut_replacements(transfer: Transfer) -> None:
    """Needs a shell. What this account may not rename stays as it is.

    Raises RemoteUnreachableError and its like, and what the watch raises.
    """
    transfer.connection.run(_RECOVER, transfer.connection.address.path, watch=transfer.watch.check)
