"""docs/encryption.md: the restore by hand works as it is written."""

import re
import subprocess
from pathlib import Path

from kvm_backup.repository.encryption.files import NoControl
from kvm_backup.repository.encryption.keys import Identities
from kvm_backup.repository.encryption.staging import Staging
from tests.unit.builders import Shelf

MANUAL = (Path(__file__).parents[3] / "docs" / "encryption.md").read_text()


def test_the_restore_by_hand_of_the_manual_restores_the_disk(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "local")
    key = Identities.new()
    (tmp_path / "nas.key").write_text(key.secrets[0])
    full = shelf.add()
    last = shelf.add(full)
    server = tmp_path / "server" / full.folder
    for manifest in (full, last):
        staging = Staging.of(shelf.repository.path_of(manifest.id), "nas")
        with staging.filled(manifest, key.recipients, room=lambda _: None, control=NoControl()) as made:
            (server / manifest.stamp).mkdir(parents=True)
            for each in made:
                (staging.folder / each.name).rename(server / manifest.stamp / each.name)
    [script] = re.findall(r"```\n(cd /srv.*?)```", MANUAL, re.DOTALL)
    places = {
        "/srv/kvm-backup/alpha-encrypted/web--1a2b3c4d": str(server),
        "/var/tmp/web": str(tmp_path / "restored"),
        "/root/nas.key": str(tmp_path / "nas.key"),
    }
    for shown, here in places.items():
        assert shown in script
        script = script.replace(shown, here)
    subprocess.run(["bash", "-euc", script], check=True, capture_output=True)
    restored = tmp_path / "restored" / "web.qcow2"
    subprocess.run(["qemu-img", "compare", restored, shelf.path(last)], check=True, capture_output=True)
    assert (tmp_path / "restored" / last.stamp / "domain.xml").read_bytes() == shelf.path(
        last, "domain.xml"
    ).read_bytes()
