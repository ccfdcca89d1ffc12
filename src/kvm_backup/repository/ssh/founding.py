"""Making a repository on another server: it is the copy of one local repository, and bears that one's identity."""

from pathlib import Path

from kvm_backup.domain.errors import RepositoryFormatError
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository.local import REPOSITORY_FILE
from kvm_backup.repository.ssh.transfer import Transfer


def found(transfer: Transfer, local: Path) -> None:
    """Put the identity of the repository in the folder `local` into the server's folder, unless it is there.

    Raises RepositoryFormatError when the server's folder is a copy of another repository, RemoteUnreachableError and
    its like.
    """
    path = transfer.connection.address.path
    only = [f"--include=/{REPOSITORY_FILE}", "--exclude=*"]
    transfer.up(local, path, "--mkpath", "--ignore-existing", *only)
    if transfer.differing(local, f"{path.rstrip('/')}/.check", "--checksum", f"--compare-dest={path}", *only):
        raise RepositoryFormatError(
            phrase("{place} holds the points of another repository", place=transfer.connection.address),
            hint=phrase("Give each repository a folder of its own there; nothing was changed."),
        )
