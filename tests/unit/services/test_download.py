"""A disk of a point as one file: what is sent is the disk, and nothing stays on this host."""

import errno
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kvm_backup.domain.errors import (
    BrokenChainError,
    CancelledError,
    DamagedPointError,
    KvmBackupError,
    PointNotFoundError,
    UnsupportedDiskError,
)
from kvm_backup.domain.point import DiskMode, Manifest
from kvm_backup.engine.copy import NoControl
from kvm_backup.services import download
from kvm_backup.services.consolidate import consolidate_point, links_to_merge
from kvm_backup.services.download import DiskDownloads
from kvm_backup.services.links import check_link
from tests.unit.builders import Shelf, a_disk, flip_bit


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "repository")


@pytest.fixture
def downloads(tmp_path: Path) -> DiskDownloads:
    return DiskDownloads(scratch=tmp_path / "scratch", space_reserve=0, level=1)


def a_chain(shelf: Shelf) -> list[Manifest]:
    points = [shelf.add()]
    for seed in (2, 3):
        points.append(shelf.add(points[-1], seed=seed))
    return points


def received(downloads: DiskDownloads, shelf: Shelf, point: Manifest, to: Path) -> Path:
    with downloads.open(shelf.repository, point.id, "vda") as disk, to.open("wb") as file:
        for chunk in disk.chunks():
            file.write(chunk)
    assert to.stat().st_size == disk.size
    return to


def qemu_img(*words: str | Path) -> str:
    return subprocess.run(["qemu-img", *words], check=True, capture_output=True, text=True).stdout


def open_files(below: Path) -> list[str]:
    """What this process has open in a folder, files without a name too."""
    links = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    return [link for link in links if link.startswith(str(below))]


def names_in(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def test_the_file_of_a_full_point_is_sent_as_it_is(downloads: DiskDownloads, shelf: Shelf, tmp_path: Path) -> None:
    point = shelf.add()
    disk = downloads.open(shelf.repository, point.id, "vda")
    assert disk.name == f"{point.id.replace('/', '-')}-vda.qcow2"
    assert b"".join(disk.chunks()) == shelf.path(point).read_bytes()
    assert open_files(tmp_path) == []


def test_an_incremental_point_becomes_one_image_that_is_the_disk_as_it_was(
    downloads: DiskDownloads, shelf: Shelf, tmp_path: Path
) -> None:
    newest = a_chain(shelf)[-1]
    sent = received(downloads, shelf, newest, tmp_path / "sent.qcow2")
    assert "backing-filename" not in json.loads(qemu_img("info", "--output=json", sent))
    qemu_img("check", "-q", sent)
    restored = tmp_path / "restored.raw"
    qemu_img("convert", "-O", "raw", shelf.path(newest), restored)
    assert "identical" in qemu_img("compare", "-f", "qcow2", "-F", "raw", sent, restored)
    assert sent.read_bytes() != shelf.path(newest).read_bytes()


def test_what_is_put_together_never_has_a_name_on_this_host(
    downloads: DiskDownloads, shelf: Shelf, tmp_path: Path
) -> None:
    seen: list[list[str]] = []

    def look() -> bool:
        seen.append(names_in(downloads.scratch))
        return False

    with downloads.open(shelf.repository, a_chain(shelf)[-1].id, "vda", look) as disk:
        assert next(disk.chunks())
    assert len(seen) > 2
    assert {name for names in seen for name in names} == set()
    assert open_files(tmp_path) == []


def test_where_a_file_needs_a_name_it_loses_it_at_once(
    downloads: DiskDownloads, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.open

    def refuse(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "as NFS does")
        return original(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    newest = a_chain(shelf)[-1]
    sent = received(downloads, shelf, newest, tmp_path / "sent.qcow2")
    assert "identical" in qemu_img("compare", sent, shelf.path(newest))
    assert names_in(downloads.scratch) == []


def test_when_the_client_goes_away_nothing_stays(downloads: DiskDownloads, shelf: Shelf, tmp_path: Path) -> None:
    chunks = downloads.open(shelf.repository, a_chain(shelf)[-1].id, "vda").chunks()
    assert next(chunks)
    assert len(open_files(tmp_path)) == 1
    chunks.close()
    assert open_files(tmp_path) == []
    assert names_in(downloads.scratch) == []


@pytest.mark.parametrize("link", [0, 1, 2])
def test_a_damaged_link_is_noticed_before_a_byte_is_sent(
    downloads: DiskDownloads, shelf: Shelf, tmp_path: Path, link: int
) -> None:
    chain = a_chain(shelf)
    path = shelf.path(chain[link])
    flip_bit(path, path.stat().st_size // 2)
    with pytest.raises(DamagedPointError, match=r"vda\.qcow2"):
        downloads.open(shelf.repository, chain[-1].id, "vda")
    assert open_files(tmp_path) == []
    with pytest.raises(DamagedPointError):
        downloads.open(shelf.repository, chain[link].id, "vda")


def test_a_missing_link_is_an_error(downloads: DiskDownloads, shelf: Shelf) -> None:
    chain = a_chain(shelf)
    shelf.repository.withdraw(chain[1].id)
    with pytest.raises(BrokenChainError):
        downloads.open(shelf.repository, chain[-1].id, "vda")


def test_a_link_in_the_place_of_the_file_is_not_followed(
    downloads: DiskDownloads, shelf: Shelf, tmp_path: Path
) -> None:
    point = shelf.add()
    elsewhere = tmp_path / "elsewhere"
    shelf.path(point).rename(elsewhere)
    shelf.path(point).symlink_to(elsewhere)
    with pytest.raises(KvmBackupError, match=r"vda\.qcow2"):
        downloads.open(shelf.repository, point.id, "vda")


def test_cancelled_while_it_is_put_together_nothing_stays(
    downloads: DiskDownloads, shelf: Shelf, tmp_path: Path
) -> None:
    asked = iter([False] * 3)
    with pytest.raises(CancelledError):
        downloads.open(shelf.repository, a_chain(shelf)[-1].id, "vda", lambda: next(asked, True))
    assert open_files(tmp_path) == []
    assert names_in(downloads.scratch) == []


def test_a_prune_that_makes_the_point_a_full_one_meanwhile_does_no_harm(
    downloads: DiskDownloads, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = a_chain(shelf)
    before = tmp_path / "before.raw"
    qemu_img("convert", "-O", "raw", shelf.path(chain[-1]), before)
    original = check_link

    def prune_first(*arguments: Any) -> None:
        monkeypatch.setattr(download, "check_link", original)
        consolidate_point(
            shelf.repository, chain[-1], links_to_merge(shelf.repository, chain[-1]), level=1, control=NoControl()
        )
        for point in chain[1::-1]:
            shelf.repository.withdraw(point.id)
        original(*arguments)

    monkeypatch.setattr(download, "check_link", prune_first)
    sent = received(downloads, shelf, chain[-1], tmp_path / "sent.qcow2")
    assert "identical" in qemu_img("compare", "-f", "qcow2", "-F", "raw", sent, before)


def test_a_disk_that_the_point_does_not_hold_and_a_snapshots_disk_are_refused(
    downloads: DiskDownloads, shelf: Shelf
) -> None:
    point = shelf.add()
    with pytest.raises(PointNotFoundError, match="vdz"):
        downloads.open(shelf.repository, point.id, "vdz")
    with pytest.raises(PointNotFoundError):
        downloads.open(shelf.repository, "../../etc", "vda")
    disk = a_disk("vda", mode=DiskMode.HOST, file=None, image_sha256=None, host_path="/srv/web.qcow2")
    snapshot = shelf.add(mode="snapshot", requested_mode="snapshot", snapshot="s", disks=(disk,))
    with pytest.raises(UnsupportedDiskError) as refused:
        downloads.open(shelf.repository, snapshot.id, "vda")
    assert "--to" in refused.value.hint
