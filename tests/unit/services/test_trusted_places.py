"""A path in a point is followed only where this host itself, or its user, vouches for the folder."""

from pathlib import Path

import pytest

from kvm_backup.domain.disk import Disk, SourceKind
from kvm_backup.domain.errors import UnsupportedDiskError
from kvm_backup.domain.vm import Vm, VmState
from kvm_backup.services.trusted_places import IMAGE_FOLDER, image_folders, is_safe_file, place_for_disk


def a_vm(*disks: Disk) -> Vm:
    return Vm("mail", "1a2b3c4d-0000-4000-8000-000000000002", VmState.STOPPED, disks)


def a_disk(path: Path, *, device: str = "disk", kind: SourceKind = SourceKind.FILE, read_only: bool = False) -> Disk:
    return Disk("vda", device, kind, str(path), "qcow2", read_only=read_only)


def test_a_disk_returns_to_a_folder_of_images(tmp_path: Path) -> None:
    folders = image_folders([a_vm(a_disk(tmp_path / "mail.qcow2"))])
    assert folders == {IMAGE_FOLDER.resolve(), tmp_path}
    assert place_for_disk("vda", str(tmp_path / "web 1.qcow2"), folders, None) == tmp_path / "web 1.qcow2"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/cron.d/x",
        "/root/.ssh/authorized_keys2",
        "{images}/../cron.d/x",
        "{images}/below/x",
        "{images}/link/x",
        "{images}/.bash_login",
        "{images}/..",
        "x",
        "",
    ],
)
def test_any_other_place_is_refused_with_the_option_that_helps(tmp_path: Path, path: str) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "link").symlink_to("/etc")
    with pytest.raises(UnsupportedDiskError) as refused:
        place_for_disk("vda", path.format(images=images), frozenset({images}), None)
    assert "--disks-in" in refused.value.hint


def test_media_and_devices_vouch_for_no_folder(tmp_path: Path) -> None:
    others = [
        a_disk(tmp_path / "cd" / "x.iso", device="cdrom"),
        a_disk(tmp_path / "base" / "x", read_only=True),
        a_disk(tmp_path / "dev" / "sda", kind=SourceKind.BLOCK),
    ]
    assert image_folders([a_vm(*others)]) == {IMAGE_FOLDER.resolve()}


@pytest.mark.parametrize(
    ("path", "name"),
    [("/etc/cron.d/x", "x"), ("/a/../..", "_."), ("/root/.profile", "_profile"), ("/a/é\n b", "___b")],
)
def test_a_chosen_folder_gets_the_name_made_safe(tmp_path: Path, path: str, name: str) -> None:
    assert place_for_disk("vda", path, frozenset(), tmp_path) == tmp_path / name


@pytest.mark.parametrize(
    ("mode", "safe"), [(0o644, True), (0o755, True), (0o600, False), (0o640, False), (0o666, False), (0o664, False)]
)
def test_a_file_without_secrets_that_only_its_owner_changes_is_safe(tmp_path: Path, mode: int, safe: bool) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.touch()
    kernel.chmod(mode)
    assert is_safe_file(str(kernel)) is safe


@pytest.mark.parametrize("path", ["/nonexistent/x", "/dev/null", "/usr", "relative", "a\0b", ""])
def test_no_file_is_not_safe(path: str) -> None:
    assert not is_safe_file(path)
