"""Images that lie beside the mark that says they are elsewhere: somebody copied them back, or a death left them."""

from kvm_backup.domain.point import Manifest
from kvm_backup.repository.elsewhere import ELSEWHERE_FILE
from kvm_backup.repository.local import LocalRepository
from kvm_backup.services.links import images_are_here


def images_are_back(local: LocalRepository, folder: str) -> bool:
    """Whether all images of a marked point of a VM are here. Manifests are read of those alone that have some.

    Raises StorageError.
    """
    return any(_is_back(local, f"{folder}/{stamp}") for stamp in local.stamps(local.root / folder))


def _is_back(local: LocalRepository, point_id: str) -> bool:
    place = local.path_of(point_id)
    if not (place / ELSEWHERE_FILE).exists() or not any(place.glob("*.qcow2")):
        return False
    point = local.examine(point_id)
    return isinstance(point, Manifest) and local.elsewhere(point_id) is not None and images_are_here(local, point)
