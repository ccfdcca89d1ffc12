import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kvm_backup.domain.errors import BadArgumentError, HypervisorError
from kvm_backup.hypervisor import backup_xml, run_folder, snapshots
from kvm_backup.hypervisor.backup_xml import JobDisk
from kvm_backup.hypervisor.bitmaps import BitmapFault, BitmapPart, combine

GOOD = BitmapPart(65536, recording=True, persistent=True, inconsistent=False)


def test_a_job_names_each_disk_escapes_paths_and_tells_full_from_incremental() -> None:
    text = backup_xml.backup(
        ["vda", "vdb", "sda"],
        [
            JobDisk("vda", incremental=True, scratch=Path("/s/<&'>/vda.scratch")),
            JobDisk("vdb", incremental=False, scratch=Path("/s/vdb.scratch")),
        ],
        socket=Path("/r/a&b"),
        base="base",
    )
    root = ET.fromstring(text)
    assert root.findtext("incremental") == "base"
    assert root.find("server").attrib == {"transport": "unix", "socket": "/r/a&b"}  # type: ignore[union-attr]
    assert [disk.attrib for disk in root.iterfind("disks/disk")] == [
        {"name": "vda", "backup": "yes", "type": "file", "backupmode": "incremental", "incremental": "base"},
        {"name": "vdb", "backup": "yes", "type": "file", "backupmode": "full"},
        {"name": "sda", "backup": "no"},
    ]
    assert root.find("disks/disk/scratch").get("file") == "/s/<&'>/vda.scratch"  # type: ignore[union-attr]


def test_a_checkpoint_description_reads_back_as_it_was_written() -> None:
    created = datetime(2026, 3, 1, 2, 0, 0, tzinfo=UTC)
    text = backup_xml.checkpoint("c<1>", ["vda", "vdb"], ["vda"], created=created, parent="c&0")
    read = backup_xml.parse_checkpoint(text)
    assert (read.name, read.parent, read.created, read.disks) == ("c<1>", "c&0", created, {"vda": "c<1>"})


@pytest.mark.parametrize(
    ("server", "words", "socket"),
    [
        ("<server transport='unix' socket='/r/n'/>", "socket /r/n", "/r/n"),
        ("<server name='::' port='10809'/>", ":::10809", None),
        ("", "push mode", None),
    ],
)
def test_a_running_job_tells_who_serves_it(server: str, words: str, socket: str | None) -> None:
    job = backup_xml.parse_backup(f"<domainbackup mode='pull'>{server}<disks/></domainbackup>")
    assert (job.server, job.socket) == (words, socket)


@pytest.mark.parametrize(
    ("layers", "fault"),
    [
        ([{"b": GOOD}], None),
        ([{"b": GOOD}, {"b": GOOD}, {}], None),
        ([{}, {"b": GOOD}], BitmapFault.NOT_IN_TOP_LAYER),
        ([{"b": GOOD}, {}, {"b": GOOD}], BitmapFault.INTERRUPTED),
        ([{"b": GOOD}, {"b": replace(GOOD, recording=False, inconsistent=True)}], BitmapFault.INCONSISTENT),
        ([{"b": replace(GOOD, recording=False)}], BitmapFault.NOT_RECORDING),
        ([{"b": replace(GOOD, persistent=False)}], BitmapFault.NOT_PERSISTENT),
    ],
)
def test_a_bitmap_is_usable_only_when_each_layer_from_the_top_holds_a_sound_part(
    layers: list[dict[str, BitmapPart]], fault: BitmapFault | None
) -> None:
    assert combine(layers)["b"].fault is fault


def test_a_socket_path_of_107_bytes_fits_and_one_more_does_not() -> None:
    run_folder.check_socket_path(Path("/" + "a" * 106))
    with pytest.raises(BadArgumentError, match="108 bytes"):
        run_folder.check_socket_path(Path("/" + "é" * 53 + "a"))


@pytest.mark.parametrize("target", ["", "../x", "a/b", ".hidden"])
def test_a_disk_name_that_would_leave_the_scratch_folder_is_refused(target: str) -> None:
    with pytest.raises(BadArgumentError):
        run_folder.scratch_path(Path("/scratch"), target)


def test_clearing_a_run_folder_leaves_files_that_are_not_ours(tmp_path: Path) -> None:
    (tmp_path / "vda.scratch").write_text("")
    (tmp_path / "notes.txt").write_text("")
    run_folder.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("state", ["running", "paused"])
def test_a_snapshot_with_memory_is_not_one_of_ours(state: str) -> None:
    text = f"<domainsnapshot><name>s</name><state>{state}</state><disks/></domainsnapshot>"
    assert snapshots.parse_snapshot(text) is None


def test_a_truncated_description_is_refused() -> None:
    with pytest.raises(HypervisorError):
        backup_xml.parse_checkpoint("<domaincheckpoint><name>c1")
