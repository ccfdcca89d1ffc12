"""An attacker who holds the key that adds points: what is there stays as it is."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from kvm_backup.repository.ssh import arrival_by_rsync
from kvm_backup.repository.ssh.shipment import Shipment
from kvm_backup.repository.ssh.transfer import Transfer
from tests.integration.ship.servers import Server
from tests.unit.builders import Shelf

ATTACKS = {
    "overwrite": ["-rI", "evil/", "adder:/"],
    "overwrite in place": ["-rI", "--inplace", "evil/", "adder:/"],
    "append": ["-r", "--append", "evil/", "adder:/"],
    "truncate": ["-rI", "--inplace", "--size-only", "empty/", "adder:/"],
    "delete": ["-r", "--delete", "empty/", "adder:/"],
    "delete by force": ["-r", "--force", "file-for-folder/", "adder:/"],
    "link for folder": ["-rl", "--force", "link-for-folder/", "adder:/"],
    "take away": ["-r", "--remove-source-files", "adder:/", "stolen/"],
    "backup aside": ["-rIb", "--suffix=~", "evil/", "adder:/"],
    "backup folder": ["-rIb", "--backup-dir=/aside", "evil/", "adder:/"],
    "partial folder": ["-r", "--partial-dir=/{point}", "evil/", "adder:/new/"],
    "late renames": ["-rI", "--delay-updates", "evil/", "adder:/"],
    "temporary folder": ["-rI", "--temp-dir=/{point}", "evil/", "adder:/"],
    "server's log": ["-r", "-M--log-file=/{point}/vda.qcow2", "evil/", "adder:/new/"],
    "climb": ["-rI", "evil/", "adder:/../store/"],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_who_holds_the_key_that_adds_can_neither_change_nor_remove_a_point(
    server: Server, shelf: Shelf, tmp_path: Path, attack: str
) -> None:
    manifest = shelf.add()
    shipment = Shipment(shelf.repository.path_of(manifest.id), manifest)
    with server.connection("adder") as connection:
        arrival_by_rsync.ship(Transfer(connection), shipment)
    there = server.store / manifest.id
    before = digests(there)
    assert before.keys() == {"manifest.json", "domain.xml", "vda.qcow2"}
    evil = tmp_path / "evil" / manifest.id
    evil.mkdir(parents=True)
    for name in before:
        (evil / name).write_bytes(b"evil" * 1000 if name != "vda.qcow2" else b"evil" * 1_000_000)
    for folder in ("empty", "file-for-folder", "link-for-folder", "stolen"):
        (tmp_path / folder).mkdir()
    (tmp_path / "file-for-folder" / manifest.folder).write_bytes(b"evil")
    (tmp_path / "link-for-folder" / manifest.folder).symlink_to("/")
    words = [word.format(point=manifest.id) for word in ATTACKS[attack]]
    subprocess.run(
        ["rsync", "-e", f"ssh -F {server.config}", *words], cwd=tmp_path, check=False, capture_output=True, timeout=60
    )
    assert not there.is_symlink()
    assert {name: digests(there).get(name) for name in before} == before


def test_who_holds_the_key_that_adds_gets_no_shell_and_no_tunnel(server: Server, shelf: Shelf) -> None:
    manifest = shelf.add()
    shipment = Shipment(shelf.repository.path_of(manifest.id), manifest)
    with server.connection("adder") as connection:
        arrival_by_rsync.ship(Transfer(connection), shipment)
        assert connection.run('rm -rf "$1"', str(server.store / manifest.id)).status != 0
    assert (server.store / manifest.id / "vda.qcow2").exists()
    for words in (["ssh", "-W", f"127.0.0.1:{server.port}", "adder"], ["sftp", "-b", "/dev/null", "adder"]):
        done = subprocess.run(
            [words[0], "-F", server.config, *words[1:]], check=False, capture_output=True, timeout=60, input=b""
        )
        assert done.returncode != 0


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.is_file()}
