"""Verifying points where they are: an account with a shell computes their digests, and no image crosses the link.

Of encrypted points those digests are compared that their files were sent with, which takes no private key.
"""

import time
from collections.abc import Generator, Iterator, Sequence

from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import MANIFEST_FILE, Manifest, serialize
from kvm_backup.repository.mirror import Mirror
from kvm_backup.repository.ssh.remote import Remote
from kvm_backup.repository.ssh.shipment import Shipment
from kvm_backup.services.control import RunControl
from kvm_backup.services.stores.fetch import size_of
from kvm_backup.services.verify import Finding, Verdict, parent_findings


def check_there(
    remote: Remote, mirror: Mirror, points: Sequence[Manifest], place: str, control: RunControl
) -> Generator[Verdict, None, list[Manifest]]:
    """A verdict on each of the points, whose manifests are as they were last read. Returns those that cannot be
    judged there: no account has a shell, or this host did not send what is encrypted there.

    Raises what `Remote.differing` raises.
    """
    left = []
    for point in points:
        began = time.monotonic()
        shipment = _shipment(remote, mirror, point)
        differing = remote.differing(shipment)
        if differing is None:
            left.append(point)
            continue
        control.advance(size_of(point))
        findings = _findings(shipment, differing, place, mirror.repository.name)
        yield Verdict(
            point=point.id,
            vm=point.vm_name,
            deep=False,
            findings=(*parent_findings(mirror.repository, point), *findings),
            bytes_checked=size_of(point),
            seconds=time.monotonic() - began,
        )
    return left


def _findings(shipment: Shipment, differing: list[str], place: str, remote: str) -> Iterator[Finding]:
    point = shipment.manifest.id
    if set(differing) == set(shipment.names):
        yield Finding(point, MANIFEST_FILE, "missing", phrase("the point is not at {place} any more", place=place))
        return
    for name in differing:
        if name == MANIFEST_FILE:
            message = phrase(
                "at {place} it is not what was last read; 'kvm-backup repository rescan {name}' reads it anew",
                place=place,
                name=remote,
            )
        else:
            message = phrase("at {place} it is missing, or does not match its digest", place=place)
        yield Finding(point, name, "changed", message)


def _shipment(remote: Remote, mirror: Mirror, point: Manifest) -> Shipment:
    sent = mirror.arrived.known(point.id, serialize(point)) if remote.is_encrypted else ()
    return Shipment(mirror.repository.path_of(point.id), point, sent)
