"""Points at a remote that this host did not ship: nobody restores one without having been warned."""

from kvm_backup.domain.errors import ForeignPointError
from kvm_backup.domain.phrase import phrase
from kvm_backup.services.stores.store import Store


def foreign_warning(store: Store, point_id: str) -> str | None:
    """What to know before a point is restored that somebody else may have put there; None for one of this host.

    Raises StorageError.
    """
    if point_id not in store.foreign:
        return None
    return phrase(
        "{id} was not shipped by this host: whoever may write to {name} may have put it there",
        id=point_id,
        name=store.view.name,
    )


def require_trust(store: Store, point_id: str, *, agreed: bool, hint: str) -> None:
    """Raises ForeignPointError, with a hint that tells how to agree, unless the point is this host's or somebody has
    agreed; StorageError."""
    if not agreed and (warning := foreign_warning(store, point_id)):
        raise ForeignPointError(warning, hint=hint)
