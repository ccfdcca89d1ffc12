"""An attacker who holds the key that adds points, and programs of his own: what is there stays as it is."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvm_backup.domain.errors import RemoteUnreachableError
from kvm_backup.domain.point import Manifest
from kvm_backup.repository.ssh.remote import Remote
from tests.integration.ship import thiefs_ssh
from tests.integration.ship.points import TOKEN, arriving, shipment_of
from tests.integration.ship.servers import Server, wait_until
from tests.unit.builders import Shelf

ATTACKS = {
    "overwrite": ["-rI", "evil/", "keeper:/"],
    "overwrite in place": ["-rI", "--inplace", "evil/", "keeper:/"],
    "overwrite from within": ["-rI", "--inplace", "evil/{point}/", "keeper:/{point}/"],
    "append": ["-r", "--append", "evil/{point}/", "keeper:/{point}/"],
    "truncate": ["-rI", "--inplace", "--size-only", "empty/", "keeper:/"],
    "delete": ["-r", "--delete", "empty/", "keeper:/"],
    "delete from where points arrive": ["-r", "--delete", "empty/", "keeper:/{vm}/.incoming-x/../"],
    "delete by force": ["-r", "--force", "file-for-folder/", "keeper:/"],
    "link for folder": ["-rl", "--force", "link-for-folder/", "keeper:/"],
    "take away": ["-r", "--remove-source-files", "keeper:/", "stolen/"],
    "backup aside": ["-rIb", "--suffix=~", "evil/", "keeper:/"],
    "backup folder": ["-rIb", "--backup-dir=/aside", "evil/", "keeper:/"],
    "partial folder": ["-r", "--partial-dir=/{point}", "evil/", "keeper:/{vm}/.incoming-x/"],
    "late renames": ["-rI", "--delay-updates", "evil/", "keeper:/"],
    "temporary folder": ["-rI", "--temp-dir=/{point}", "evil/", "keeper:/{vm}/.incoming-x/"],
    "server's log": ["-r", "-M--log-file=/{point}/vda.qcow2", "evil/", "keeper:/{vm}/.incoming-x/"],
    "server's list": ["-r", "-M--files-from=/{point}/vda.qcow2", "evil/", "keeper:/{vm}/.incoming-x/"],
    "modes": ["-rp", "--chmod=a=", "evil/", "keeper:/"],
    "no dry run behind a letter that ends them": ["-rI", "-M-en", "evil/", "keeper:/"],
    "another command": ["-rI", "--rsync-path=true;rsync", "evil/", "keeper:/"],
    "quotes": ["-rI", "--rsync-path=rsync --server '-n -rI' --", "evil/", "keeper:/"],
    "climb": ["-rI", "evil/", "keeper:/../store/"],
    "climb from where points arrive": ["-rI", "evil/{point}/", "keeper:/{vm}/.incoming-x/../../{point}/"],
}


@pytest.fixture
def point(server: Server, shelf: Shelf) -> Manifest:
    manifest = shelf.add()
    ship(server, shelf, manifest)
    return manifest


@pytest.fixture
def evil(tmp_path: Path, point: Manifest) -> Path:
    for name in ("empty", "file-for-folder", "link-for-folder", "stolen"):
        (tmp_path / name).mkdir()
    (tmp_path / "file-for-folder" / point.folder).write_bytes(b"evil")
    (tmp_path / "link-for-folder" / point.folder).symlink_to("/")
    folder = tmp_path / "evil" / point.id
    folder.mkdir(parents=True)
    for name in ("manifest.json", "domain.xml", "vda.qcow2"):
        (folder / name).write_bytes(b"evil" * 1000 if name != "vda.qcow2" else b"evil" * 1_000_000)
    return folder


def ship(server: Server, shelf: Shelf, manifest: Manifest) -> None:
    with Remote(server.address("keeper"), config=server.config, token=TOKEN) as remote:
        remote.ship(shipment_of(shelf, manifest))


def steal(server: Server, *words: str, at: Path, **habits: str) -> subprocess.Popen[str]:
    """The thief's rsync, over an ssh with these habits."""
    ssh = f"{sys.executable} {thiefs_ssh.__file__} {server.config}"
    return subprocess.Popen(
        ["rsync", "-e", ssh, *words], cwd=at, env={**os.environ, **habits}, stderr=subprocess.PIPE, text=True
    )


@contextmanager
def held_up(server: Server, *words: str, at: Path) -> Iterator[subprocess.Popen[str]]:
    """The thief's rsync, in the middle of a file, unless it was refused; it goes on when the block ends."""
    mark = at / "held"
    thief = steal(server, *words, at=at, HOLDS_AFTER="2000000", HELD=str(mark))
    try:
        wait_until(lambda: mark.exists() or thief.poll() is not None)
        yield thief
    finally:
        mark.unlink(missing_ok=True)
        thief.communicate(timeout=60)


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.is_file()}


def same_as(there: Path) -> Callable[[], bool]:
    before, mode = digests(there), (there.stat().st_mode, there.parent.stat().st_mode)
    assert before.keys() == {"manifest.json", "domain.xml", "vda.qcow2"}
    return lambda: (
        not there.is_symlink()
        and digests(there) == before
        and (there.stat().st_mode, there.parent.stat().st_mode) == mode
    )


@pytest.mark.parametrize("attack", ATTACKS)
def test_who_holds_the_key_that_adds_can_neither_change_nor_remove_a_point(
    server: Server, point: Manifest, evil: Path, tmp_path: Path, attack: str
) -> None:
    is_same = same_as(server.store / point.id)
    words = [word.format(point=point.id, vm=point.folder) for word in ATTACKS[attack]]
    steal(server, *words, at=tmp_path).communicate(timeout=60)
    assert is_same()


def test_an_rsync_that_sends_what_it_was_not_asked_for_changes_no_point(
    server: Server, point: Manifest, evil: Path, tmp_path: Path
) -> None:
    # The server asks for the new name, which comes first, and gets its content as that of the next one.
    is_same = same_as(server.store / point.id)
    (evil / "a-new-name").write_bytes(b"evil")
    to = f"keeper:/{point.id}/"
    for swaps in ("1,2", "2,3"):
        words = ["-rIW", "--protocol=29", f"{evil}/", to]
        steal(server, *words, at=tmp_path, SWAPS=swaps).communicate(timeout=60)
        assert is_same()


def test_content_that_is_sent_into_a_dry_run_changes_no_point(
    server: Server, point: Manifest, evil: Path, tmp_path: Path
) -> None:
    is_same = same_as(server.store / point.id)
    copy = tmp_path / "copy"
    shutil.copytree(server.store / point.id, copy)
    words = ["-rIW", "--inplace", "--protocol=29", f"{evil}/", f"shell:{tmp_path}/empty/"]
    steal(server, *words, at=tmp_path, RECORDS=str(tmp_path / "said")).communicate(timeout=60)
    said = (tmp_path / "said").read_bytes()

    def say(account: str, options: str, folder: object) -> None:
        command = ["ssh", "-F", str(server.config), account, f"rsync --server {options} --inplace . {folder}/"]
        subprocess.run(command, check=False, capture_output=True, timeout=60, input=said)

    say("shell", "-WrIe.iLsfxCIvu", copy)
    assert digests(copy) != digests(server.store / point.id)
    say("keeper", "-nWrIe.iLsfxCIvu", f"/{point.id}")
    assert is_same()


def test_who_begins_a_file_before_its_point_is_there_does_not_replace_it_after(
    server: Server, shelf: Shelf, point: Manifest, evil: Path, tmp_path: Path
) -> None:
    child = shelf.add(point)
    with held_up(server, "-r", "--mkpath", f"{evil}/", f"keeper:/{child.id}/", at=tmp_path):
        ship(server, shelf, child)
        is_same = same_as(server.store / child.id)
    assert is_same()


@pytest.mark.parametrize("place", ["/{vm}/x/", "/{vm}/.incoming-x/"])
def test_who_links_an_older_file_to_the_name_that_he_is_writing_to_does_not_change_it(
    server: Server, point: Manifest, evil: Path, tmp_path: Path, place: str
) -> None:
    is_same = same_as(server.store / point.id)
    to = f"keeper:{place.format(vm=point.folder)}"
    # The file before is what is held up: the one behind it is promised, and opened only then.
    (evil / "a-file-before").write_bytes(os.urandom(4_000_000))
    with held_up(server, "-rW", "--inplace", "--mkpath", f"{evil}/", to, at=tmp_path):
        empty = tmp_path / "same-size"
        empty.mkdir()
        with (empty / "vda.qcow2").open("wb") as file:
            file.truncate((server.store / point.id / "vda.qcow2").stat().st_size)
        linking = ["-r", "--size-only", f"--link-dest=/{point.id}/", f"{empty}/", to]
        steal(server, *linking, at=tmp_path).communicate(timeout=60)
    assert is_same()


def asked(server: Server, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ssh", "-F", server.config, "keeper", *words], check=False, capture_output=True, text=True, timeout=60
    )


def test_what_is_still_written_to_becomes_no_point(
    server: Server, point: Manifest, evil: Path, tmp_path: Path
) -> None:
    words = ["-rW", "--inplace", f"{evil}/", f"keeper:/{point.folder}/.incoming-x/"]
    publish = ["kvm-backup-add-only", "publish", point.folder, ".incoming-x", "20270101T000000Z"]
    with held_up(server, *words, at=tmp_path) as thief:
        assert thief.poll() is None
        assert "busy" in asked(server, *publish).stderr
        second = steal(server, *words, at=tmp_path)
        assert "busy" in second.communicate(timeout=60)[1]
    assert asked(server, *publish).returncode == 0
    assert (server.store / point.folder / "20270101T000000Z" / "manifest.json").exists()


def test_a_shipment_waits_for_one_that_was_cut_off_unnoticed(
    server: Server, shelf: Shelf, point: Manifest, evil: Path, tmp_path: Path
) -> None:
    child = shelf.add(point)
    words = ["-rW", "--inplace", f"{evil}/", f"keeper:/{arriving(child)}/"]
    with held_up(server, *words, at=tmp_path) as first:
        assert first.poll() is None
        with pytest.raises(RemoteUnreachableError, match="another transfer") as busy:
            ship(server, shelf, child)
    assert busy.value.retryable
    ship(server, shelf, child)
    assert digests(server.store / child.id) == digests(shelf.repository.path_of(child.id))


def test_what_has_another_name_or_is_no_file_becomes_no_point(
    server: Server, point: Manifest, tmp_path: Path
) -> None:
    publish = ["kvm-backup-add-only", "publish", point.folder, ".incoming-x", "20270101T000000Z"]
    hidden = server.store / point.folder / ".incoming-x"
    hidden.mkdir()
    (hidden / "manifest.json").write_bytes(b"{}")
    spoilt = hidden / "vda.qcow2"
    older = server.store / point.id / "vda.qcow2"
    spoils: list[Callable[[], None]] = [
        lambda: spoilt.hardlink_to(older),
        lambda: spoilt.symlink_to(older),
        lambda: os.mkfifo(spoilt),
    ]
    for spoil in spoils:
        spoil()
        assert "more than files" in asked(server, *publish).stderr
        spoilt.unlink()
    assert asked(server, *publish).returncode == 0


@pytest.mark.parametrize(
    ("folder", "hidden", "stamp"),
    [
        ("{vm}", ".incoming-x", "{stamp}"),
        ("{vm}", "{stamp}", "20270101T000000Z"),
        ("{vm}", ".incoming-x", "../20270101T000000Z"),
        ("{vm}", "../{vm}/{stamp}", "20270101T000000Z"),
        (".", ".incoming-x", "{vm}"),
        ("{vm}/{stamp}", ".incoming-x", "20270101T000000Z"),
        ("..--0", ".incoming-x", "20270101T000000Z"),
        ("{vm}", ".incoming-x", "20270101T000000Z;id"),
        ("{vm}", ".incoming-x", "$(id)"),
    ],
)
def test_nothing_is_renamed_but_what_arrived_and_to_a_new_point(
    server: Server, point: Manifest, folder: str, hidden: str, stamp: str
) -> None:
    is_same = same_as(server.store / point.id)
    arrived = server.store / point.folder / ".incoming-x"
    arrived.mkdir()
    (arrived / "manifest.json").write_bytes(b"{}")
    before = sorted(server.store.rglob("*"))
    words = [word.format(vm=point.folder, stamp=point.stamp) for word in (folder, hidden, stamp)]
    assert asked(server, "kvm-backup-add-only", "publish", *words).returncode != 0
    assert sorted(server.store.rglob("*")) == before
    assert is_same()


def test_digests_are_told_of_the_files_of_a_point(server: Server, point: Manifest) -> None:
    there = digests(server.store / point.id)
    told = asked(server, "kvm-backup-add-only", "digests", point.folder, point.stamp, *there, "gone.qcow2")
    assert told.stdout.split() == [*there.values(), "missing"]
    absent = asked(server, "kvm-backup-add-only", "digests", point.folder, "20270101T000000Z", *there)
    assert absent.stdout.split() == ["missing"] * len(there)


@pytest.mark.parametrize(
    ("folder", "stamp", "name"),
    [
        ("{vm}", "{stamp}", "../{stamp}/vda.qcow2"),
        ("{vm}", "{stamp}", "/etc/passwd"),
        ("{vm}", "{stamp}", ".."),
        ("{vm}", "{stamp}", ".hidden"),
        ("{vm}", "{stamp}", "-"),
        ("{vm}", "{stamp}", "--check"),
        ("{vm}", "{stamp}", "*"),
        ("{vm}", "{stamp}", "'vda.qcow2'"),
        ("{vm}", "{stamp}", "$(id)"),
        ("{vm}", "..", "kvm-backup.json"),
        ("{vm}", ".incoming-x", "secret"),
        ("{vm}", "../{vm}/{stamp}", "vda.qcow2"),
        (".", "{vm}", "secret"),
        ("..", "secret", "secret"),
        ("../store/{vm}", "{stamp}", "vda.qcow2"),
        ("a--b", "{stamp}", "secret"),
        ("{vm}", "20270101T000000Z", "secret"),
        ("{vm}", "{stamp}", "link.qcow2"),
    ],
)
def test_digests_are_told_of_nothing_else(
    server: Server, point: Manifest, tmp_path: Path, folder: str, stamp: str, name: str
) -> None:
    is_secret = hashlib.sha256(b"secret").hexdigest()
    outside = tmp_path / "outside"
    for place in (outside / point.stamp, server.store / point.folder / ".incoming-x"):
        place.mkdir(parents=True)
        (place / "secret").write_bytes(b"secret")
    # As somebody else on the server may have put them there.
    (server.store / "a--b").symlink_to(outside)
    (server.store / point.folder / "20270101T000000Z").symlink_to(outside / point.stamp)
    (server.store / point.id / "link.qcow2").symlink_to(outside / point.stamp / "secret")
    words = [word.format(vm=point.folder, stamp=point.stamp) for word in (folder, stamp, name)]
    told = asked(server, "kvm-backup-add-only", "digests", *words)
    assert is_secret not in told.stdout
    assert (told.returncode != 0 and told.stdout == "") or told.stdout == "missing\n"


def test_a_repository_is_founded_once(server: Server, shelf: Shelf, evil: Path, tmp_path: Path) -> None:
    with Remote(server.address("keeper"), config=server.config) as remote:
        remote.found(shelf.root)
        remote.found(shelf.root)
    content = (server.store / "kvm-backup.json").read_bytes()
    (evil / "kvm-backup.json").write_bytes(b"evil")
    steal(server, "-r", f"{evil}/", "keeper:/.incoming-founding/", at=tmp_path).communicate(timeout=60)
    assert "there already" in asked(server, "kvm-backup-add-only", "found").stderr
    assert (server.store / "kvm-backup.json").read_bytes() == content


def test_who_holds_the_key_that_adds_gets_no_shell_and_no_tunnel(server: Server, point: Manifest) -> None:
    with server.connection("keeper") as connection:
        assert connection.run('rm -rf "$1"', str(server.store / point.id)).status != 0
    assert (server.store / point.id / "vda.qcow2").exists()
    for words in (["ssh", "-W", f"127.0.0.1:{server.port}", "keeper"], ["sftp", "-b", "/dev/null", "keeper"]):
        done = subprocess.run(
            [words[0], "-F", server.config, *words[1:]], check=False, capture_output=True, timeout=60, input=b""
        )
        assert done.returncode != 0
