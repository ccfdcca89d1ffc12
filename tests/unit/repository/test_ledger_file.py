"""What stands in the place of a ledger and is none is one clear error, and not waited for."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kvm_backup.domain.errors import StorageError
from kvm_backup.repository.ledger import LEDGER_FILE, Ledger


def huge(file: Path) -> None:
    file.touch()
    os.truncate(file, 1 << 40)


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, huge, Path.mkdir, lambda file: file.symlink_to("/dev/zero")],
    ids=["pipe", "huge", "folder", "link"],
)
def test_what_is_no_ledger_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / LEDGER_FILE)
    with pytest.raises(StorageError):
        Ledger(tmp_path).shipped()
