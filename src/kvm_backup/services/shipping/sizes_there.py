"""What a host without the private key can find out of an encrypted remote, where it cannot read any manifest: whether
what it sent is still there, by the names and sizes of the files.
"""

from kvm_backup.domain.point import Manifest, serialize
from kvm_backup.repository.mirror import Mirror
from kvm_backup.repository.ssh.incomplete import SentFile
from kvm_backup.repository.ssh.remote import Remote


def forget_what_is_incomplete(mirror: Mirror, remote: Remote) -> None:
    """Take points out of the mirror that are not whole there any more, so that they wait for the remote again.

    Raises what `Remote.incomplete` raises.
    """
    sent = _sent_encrypted(mirror)
    gone = remote.incomplete(sent, mirror.repository.id) if sent else []
    now = _sent_encrypted(mirror) if gone else {}
    for point in gone:
        if now.get(point) == sent[point]:  # another run may just have sent it anew
            mirror.forget(point)


def _sent_encrypted(mirror: Mirror) -> dict[str, list[SentFile]]:
    points = [point for point in mirror.repository.all_points() if isinstance(point, Manifest)]
    known = {point.id: mirror.arrived.known(point.id, serialize(point)) for point in points}
    return {point: [SentFile(one.name, one.bytes) for one in files] for point, files in known.items() if files}
