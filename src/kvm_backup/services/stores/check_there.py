"""Verifying points where they are: an account with a shell computes their digests, and no image crosses the link."""

import time
from collections.abc import Iterator, Sequence

from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import MANIFEST_FILE, Manifest
from kvm_backup.repository.local import LocalRepository
from kvm_backup.repository.ssh.remote import Remote
from kvm_backup.repository.ssh.shipment import Shipment
from kvm_backup.services.control import RunControl
from kvm_backup.services.stores.fetch import size_of
from kvm_backup.services.verify import Finding, Verdict, parent_findings


def check_there(
    remote: Remote, view: LocalRepository, points: Sequence[Manifest], place: str, control: RunControl
) -> Iterator[Verdict] | None:
    """A verdict on each point of `view`, the manifests as they were last read; None where no account has a shell.

    Raises what `Remote.differing` raises.
    """
    began = time.monotonic()
    first = remote.differing(_shipment(view, points[0]))
    if first is None:
        return None
    return _verdicts(remote, view, points, place, control, first, began)


def _verdicts(
    remote: Remote,
    view: LocalRepository,
    points: Sequence[Manifest],
    place: str,
    control: RunControl,
    first: list[str],
    began: float,
) -> Iterator[Verdict]:
    for point in points:
        differing = first if point is points[0] else remote.differing(_shipment(view, point)) or []
        control.advance(size_of(point))
        yield Verdict(
            point=point.id,
            vm=point.vm_name,
            deep=False,
            findings=(*parent_findings(view, point), *_findings(view, point, differing, place)),
            bytes_checked=size_of(point),
            seconds=time.monotonic() - began,
        )
        began = time.monotonic()


def _findings(view: LocalRepository, point: Manifest, differing: list[str], place: str) -> Iterator[Finding]:
    if set(differing) == set(_shipment(view, point).names):
        yield Finding(point.id, MANIFEST_FILE, "missing", phrase("the point is not at {place} any more", place=place))
        return
    for name in differing:
        if name == MANIFEST_FILE:
            message = phrase(
                "at {place} it is not what was last read; 'kvm-backup repository rescan {name}' reads it anew",
                place=place,
                name=view.name,
            )
        else:
            message = phrase("at {place} it is missing, or does not match its digest", place=place)
        yield Finding(point.id, name, "changed", message)


def _shipment(view: LocalRepository, point: Manifest) -> Shipment:
    return Shipment(view.path_of(point.id), point)
