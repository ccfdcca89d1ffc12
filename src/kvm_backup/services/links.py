"""The files that one disk of a point is made of, and the check each link gets before it is used (invariant 4)."""

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from kvm_backup.domain.errors import BrokenChainError, DamagedPointError, PointElsewhereError
from kvm_backup.domain.phrase import phrase
from kvm_backup.domain.point import DiskMode, Manifest, StoredDisk
from kvm_backup.engine.copy import CopyControl
from kvm_backup.engine.qcow2.format import Identity
from kvm_backup.engine.verify import check_image
from kvm_backup.repository.local import LocalRepository


@dataclass(frozen=True, slots=True)
class Link:
    """One image file of a disk's chain, and the point that it belongs to."""

    manifest: Manifest
    disk: StoredDisk
    path: Path

    @property
    def identity(self) -> Identity:
        """What the file must say of itself."""
        parent = self.manifest.parent_identity if self.disk.mode is DiskMode.INCREMENTAL else None
        return Identity(point=self.manifest.identity, disk=self.disk.target, parent=parent)


def disk_links(repository: LocalRepository, chain: list[Manifest], target: str) -> list[Link]:
    """The files of a disk, full one first, for the last point of `chain`.

    Raises BrokenChainError, and PointElsewhereError when some of them are not in this repository.
    """
    links = links_anywhere(repository, chain, target)
    for link in links:
        names = repository.elsewhere(link.manifest.id)
        if names is not None:
            raise _not_here(chain[-1], link.manifest, names)
    return links


def require_here(repository: LocalRepository, manifest: Manifest) -> None:
    """Raises PointElsewhereError when images that a point is read from are not here, BrokenChainError."""
    chain = repository.chain(manifest)
    for disk in manifest.disks:
        if disk.file is not None:
            disk_links(repository, chain, disk.target)


def links_anywhere(repository: LocalRepository, chain: list[Manifest], target: str) -> list[Link]:
    """The same, whether the files are here or in other repositories only. Raises BrokenChainError."""
    links: list[Link] = []
    for manifest in reversed(chain):
        disk = manifest.disk(target)
        if disk is None or disk.file is None:
            raise BrokenChainError(
                phrase(
                    "{id} holds no data of disk {target}, which {child} builds on",
                    id=manifest.id,
                    target=target,
                    child=chain[-1].id,
                ),
                hint=phrase("Restore an older point."),
                vm=manifest.vm_name,
            )
        links.insert(0, Link(manifest, disk, repository.path_of(manifest.id) / disk.file))
        if disk.mode is not DiskMode.INCREMENTAL:
            return links
    raise BrokenChainError(
        phrase("the chain of {id} has no full image of disk {target}", id=chain[-1].id, target=target),
        hint=phrase("Restore an older point."),
        vm=chain[-1].vm_name,
    )


def _not_here(point: Manifest, link: Manifest, names: tuple[str, ...]) -> PointElsewhereError:
    if not names:
        return PointElsewhereError(
            phrase("the disks of {id} were only in repositories that no longer hold them", id=link.id),
            hint=phrase("Restore another point."),
            vm=point.vm_name,
        )
    where = ", ".join(names)
    if link.id == point.id:
        message = phrase("the disks of {id} are not here, they are in repository {names}", id=point.id, names=where)
    else:
        message = phrase(
            "{id} builds on {parent}, whose disks are not here, they are in repository {names}",
            id=point.id,
            parent=link.id,
            names=where,
        )
    return PointElsewhereError(
        message,
        hint=phrase("Restore it from there: add --repository {name}.", name=names[0]),
        vm=point.vm_name,
    )


def seem_intact(repository: LocalRepository, chain: list[Manifest]) -> bool:
    """Whether every image file of a chain is there with the size it should have; cheap, reads no data.

    Those in another repository count as there, as long as one is known to hold them.
    """
    for manifest in chain:
        names = repository.elsewhere(manifest.id)
        if names == () or (names is None and not images_are_here(repository, manifest)):
            return False
    return True


def is_unnamed(names: tuple[str, ...] | None, remotes: Container[str]) -> bool:
    """Whether images that are elsewhere, in repositories of these names, are in none that the settings know."""
    return bool(names) and not any(name in remotes for name in names or ())


def images_are_here(repository: LocalRepository, manifest: Manifest) -> bool:
    """Whether the image files of a point are in its folder with the sizes they should have."""
    for disk in manifest.disks:
        if disk.file is None:
            continue
        try:
            status = (repository.path_of(manifest.id) / disk.file).stat(follow_symlinks=False)
        except OSError:
            return False
        if status.st_size != disk.bytes_stored:
            return False
    return True


def check_link(link: Link, control: CopyControl) -> None:
    """Read the whole file and compare digest and identity. Raises DamagedPointError."""
    damage = check_image(
        link.path,
        expected_sha256=link.disk.image_sha256,
        expected_identity=link.identity,
        deep=False,
        control=control,
    )
    if damage:
        raise DamagedPointError(
            phrase(
                "{id}/{file} is damaged: {cause}", id=link.manifest.id, file=link.disk.file, cause=damage[0].message
            ),
            hint=phrase(
                "Nothing was written. Restore another point; 'kvm-backup verify --all' tells which are whole."
            ),
            vm=link.manifest.vm_name,
        )
