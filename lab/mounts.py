"""File systems that tests mount inside a lab's folder: a killed test leaves them mounted."""

from pathlib import Path

from lab.programs import run


def mounts_below(folder: Path) -> list[Path]:
    """Where file systems are mounted in `folder`, in the order they were mounted. Source: proc(5), mountinfo."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        # The kernel writes spaces, tabs, line ends and backslashes in a path as octal numbers.
        place = Path(line.split()[4].encode("latin-1", "backslashreplace").decode("unicode_escape"))
        if place.is_relative_to(folder):
            found.append(place)
    return found


def unmount(place: Path) -> None:
    """Take the file system away at once, even from under files that are still open. Raises LabError."""
    run(["umount", "--lazy", place])
