"""A point of one id may be another one: of a local repository that was put back to an older state, or of a host that
was copied."""

from kvm_backup.domain.errors import RepositoryFormatError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import Manifest
from kvm_backup.repository.mirror import Mirror


def require_same_point(mirror: Mirror, manifest: Manifest) -> None:
    """Check that a remote holds no other point under the id of this one: others may build on that.

    A state of the same point, consolidated since or damaged, has its UUID; what cannot be read is no point. Raises
    RepositoryFormatError, StorageError.
    """
    if not mirror.repository.path_of(manifest.id).is_dir():
        return
    there = mirror.repository.examine(manifest.id)
    if isinstance(there, Manifest) and there.uuid != manifest.uuid:
        raise RepositoryFormatError(
            phrase(
                "{name} holds another point as {id}, and it is not replaced", name=mirror.repository.name, id=there.id
            ),
            hint=phrase(
                "The local repository was set back to an older state, or another host writes there, too. Give this"
                " one a new folder there, with 'kvm-backup repository add': what is there stays."
            ),
            vm=manifest.vm_name,
        )
