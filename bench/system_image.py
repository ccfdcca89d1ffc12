"""Makes a disk image that holds real system files: what a server's disk is like, incompressible parts and all."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.measure import BenchError
from lab.programs import run

TREES = (Path("/usr"), Path("/opt"))
PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class SystemImage:
    """An ext4 file system in a qcow2 image; `data_bytes` of files, `rounds` times as many as the host has."""

    path: Path
    data_bytes: int
    files: int
    rounds: int
    pieces: tuple[Path, ...]
    """Files of 1 MiB of the same data, in random order, for writes."""


def make_system_image(folder: Path, *, data_bytes: int, disk_bytes: int, pieces: int) -> SystemImage:
    """Fill `folder`/system.qcow2 with at least `data_bytes` of this host's files. Raises BenchError, LabError."""
    tree, plain, image = folder / "tree", folder / "system.raw", folder / "system.qcow2"
    tree.mkdir()
    copied = count = rounds = 0
    for rounds, source in _endless_files():
        target = tree / str(rounds) / source.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source, target)
        except OSError:
            continue  # it went away, or is not for us
        copied += target.stat().st_size
        count += 1
        if copied >= data_bytes:
            break
    cut = _cut_pieces(tree, folder / "pieces", pieces)
    with plain.open("xb") as raw:
        raw.truncate(disk_bytes)
    extended = "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0"
    run(["mke2fs", "-q", "-t", "ext4", "-E", extended, "-d", tree, plain], timeout=1800)
    shutil.rmtree(tree)
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-t", "none", "-W", plain, image], timeout=1800)
    plain.unlink()
    return SystemImage(image, copied, count, rounds, cut)


def _endless_files() -> Iterator[tuple[int, Path]]:
    """Every regular file of the trees with the number of the round, again and again."""
    for number in range(1, 100):
        found = False
        for top in TREES:
            for folder, folders, names in os.walk(top):
                folders.sort()
                for name in sorted(names):
                    path = Path(folder, name)
                    if path.is_file() and not path.is_symlink():
                        found = True
                        yield number, path
        if not found:
            break
    raise BenchError(f"{' and '.join(map(str, TREES))} hold too few files to fill a disk with")


def _cut_pieces(tree: Path, folder: Path, count: int) -> tuple[Path, ...]:
    """`count` files of 1 MiB from all over the tree, open to QEMU's user."""
    large = sorted(path for path in tree.rglob("*") if path.is_file() and path.stat().st_size >= PIECE)
    if not large:
        raise BenchError("no file of the host has 1 MiB")
    folder.mkdir(mode=0o755)
    found = []
    for number in range(count):
        source = large[number * len(large) // count]
        start = number * 7919 % (source.stat().st_size // PIECE) * PIECE
        with source.open("rb") as content:
            content.seek(start)
            piece = folder / f"{number}"
            piece.write_bytes(content.read(PIECE))
        piece.chmod(0o644)
        found.append(piece)
    return tuple(found)
