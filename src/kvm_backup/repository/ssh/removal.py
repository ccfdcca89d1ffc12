"""Removing on the server: a point first goes out of sight, then its files go."""

import math
import re
from datetime import timedelta

from kvm_backup.domain.errors import BrokenChainError
from kvm_backup.domain.names import STAMP_PATTERN
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import MANIFEST_FILE
from kvm_backup.repository.ssh import removal_by_rsync, scripts
from kvm_backup.repository.ssh.access import Access
from kvm_backup.repository.ssh.failures import linked
from kvm_backup.repository.ssh.scripts import INCOMING_PREFIX
from kvm_backup.repository.ssh.shipment import ENCRYPTED_MANIFEST_FILE

_CLEAR_WITHOUT_MANIFEST = f"""
cd "$1" || exit 1
for point in ./*--*/[0-9]*T[0-9]*Z; do
    vm=${{point%/*}}
    stamp=${{point##*/}}
    [ -d "$point" ] && [ ! -L "$point" ] && [ ! -L "$vm" ] || continue
    for arriving in "$point/{MANIFEST_FILE}" "$point/{ENCRYPTED_MANIFEST_FILE}" "$vm/{INCOMING_PREFIX}$stamp"-*; do
        [ ! -e "$arriving" ] && [ ! -L "$arriving" ] || continue 2
    done
    young=$(find "$point" -cmin "-$2") || continue
    [ -n "$young" ] || rm -rf "$point"
done
"""
"""$1 the repository, $2 minutes: removes what an arrival by rsync alone left that was cut off before its manifest,
once what it arrived in is gone."""


def remove(access: Access, point_id: str) -> None:
    """Remove a point, and what a removal of it that was killed left. One that is gone is no error.

    Raises BrokenChainError when a shell there finds a point that builds on it (encrypted ones it cannot look into),
    RepositoryFormatError when the VM's folder there is a link,
    RemoteAccessError when the account may not remove, RemoteUnreachableError and its like, and what the watch raises.
    """
    transfer, address = access.transfer, access.address
    folder, stamp = point_id.split("/")
    if not access.has_shell:
        removal_by_rsync.remove(transfer, folder, stamp)
        return
    # The very bytes of domain/point.py's serialize: no other text of a manifest holds them, quotes are escaped there.
    as_parent = f'"parent": "{point_id}"'
    done = transfer.connection.run(
        scripts.REMOVE, address.below(folder), stamp, as_parent, watch=transfer.watch.check
    )
    if done.status == scripts.HAS_CHILD:
        raise BrokenChainError(
            phrase(
                "{id} stays at {place}: {child} builds on it",
                id=point_id,
                place=address,
                child=f"{folder}/{''.join(re.findall(STAMP_PATTERN, done.stdout)[:1])}",
            ),
            hint=phrase("Nothing was changed. Remove the points that build on it first."),
        )
    if done.status == scripts.LINKED:
        raise linked(address, folder)
    if done.status != 0:
        raise transfer.connection.failure(done)


def clear_incoming(access: Access, older_than: timedelta) -> None:
    """Remove what cut transfers and removals left, when nobody has touched it for that long by the server's clock;
    folders among it that have the names of points and no manifest.

    Raises as `remove`.
    """
    transfer = access.transfer
    minutes = math.ceil(older_than / timedelta(minutes=1))
    if not access.has_shell:
        removal_by_rsync.clear_incoming(transfer, older_than)
        return
    for script in (scripts.CLEAR, _CLEAR_WITHOUT_MANIFEST):
        done = transfer.connection.run(script, access.address.path, str(minutes), watch=transfer.watch.check)
        if done.status != 0:
            raise transfer.connection.failure(done)
