"""Points at a remote that this host did not ship: nobody restores one without having been warned."""

from kvm_backup.domain.errors import (
    BrokenChainError,
    DamagedManifestError,
    DamagedPointError,
    ForeignPointError,
    PointNotFoundError,
)
from kvm_backup.domain.phrase import phrase
from kvm_backup.services.stores.store import Store


def foreign_warning(store: Store, point_id: str) -> str | None:
    """What to know before a point is restored that somebody else may have put there, or one that it builds on; None
    for one of this host. Raises StorageError.
    """
    foreign, name = store.foreign, store.view.name
    if point_id in foreign:
        return phrase(
            "{id} was not shipped by this host: whoever may write to {name} may have put it there",
            id=point_id,
            name=name,
        )
    below = next((link for link in _below(store, point_id) if link in foreign), None) if foreign else None
    if below is None:
        return None
    return phrase(
        "{id} builds on {parent}, which was not shipped by this host: whoever may write to {name} may have put it"
        " there",
        id=point_id,
        parent=below,
        name=name,
    )


def _below(store: Store, point_id: str) -> list[str]:
    """What a point builds on, as far as that can be told: of a broken chain nothing is restored."""
    try:
        return [link.id for link in store.view.chain(store.view.load(point_id))[:-1]]
    except (BrokenChainError, DamagedPointError, DamagedManifestError, PointNotFoundError):
        return []


def require_trust(store: Store, point_id: str, *, agreed: bool, hint: str) -> None:
    """Raises ForeignPointError, with a hint that tells how to agree, unless the point and all that it builds on are
    this host's, or somebody has agreed; StorageError."""
    if not agreed and (warning := foreign_warning(store, point_id)):
        raise ForeignPointError(warning, hint=hint)
