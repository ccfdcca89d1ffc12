"""What has changed in repositories without a run of this service: commands and rescans of other processes."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kvm_backup.domain.names import FOLDER_PATTERN


@dataclass(slots=True)
class FolderWatch:
    """Compares the times of VM folders, which change whenever a point comes or goes: one stat for each VM."""

    _known: dict[Path, dict[str, int]] = field(default_factory=dict)

    def changed(self, root: Path) -> set[str]:
        """The folders that came, went or changed since the last call; none of a repository that was new to it.

        One that is away has not changed.
        """
        try:
            now = _times(root)
        except OSError:
            return set()
        before = self._known.get(root)
        self._known[root] = now
        if before is None:
            return set()
        return {name for name in now.keys() | before.keys() if now.get(name) != before.get(name)}

    def keep_only(self, roots: Iterable[Path]) -> None:
        """Forget the others."""
        wanted = set(roots)
        self._known = {root: times for root, times in self._known.items() if root in wanted}


def _times(root: Path) -> dict[str, int]:
    """In nanoseconds, by the names of folders."""
    times = {}
    with os.scandir(root) as entries:
        for entry in entries:
            if re.fullmatch(FOLDER_PATTERN, entry.name) and entry.is_dir(follow_symlinks=False):
                times[entry.name] = entry.stat(follow_symlinks=False).st_mtime_ns
    return times
