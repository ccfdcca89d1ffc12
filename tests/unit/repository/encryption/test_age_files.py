"""Files encrypted by our process: what comes back, who else can read it, and what is said of damage."""

import hashlib
import os
import resource
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from kvm_backup.domain.errors import (
    CancelledError,
    DamagedPointError,
    EncryptionKeyError,
    KvmBackupError,
    StorageError,
    ToolFailedError,
)
from kvm_backup.repository.encryption import files
from kvm_backup.repository.encryption.files import NoControl, PlainFile
from kvm_backup.repository.encryption.keys import Identities
from tests.unit.builders import flip_bit

KEY = Identities.new()
CHUNK = 64 << 10


def plain(content: bytes, *, image: bool = False) -> PlainFile:
    ordered = content[CHUNK:] + content[:CHUNK] if image else content
    return PlainFile("vda.qcow2", hashlib.sha256(ordered).hexdigest(), len(content), image)


def encrypted(folder: Path, content: bytes, recipients: tuple[str, ...] = KEY.recipients) -> Path:
    source, target = folder / "vda.qcow2", folder / "vda.qcow2.age"
    source.write_bytes(content)
    files.encrypt(source, target, recipients, plain(content), NoControl())
    files.publish(target)
    return target


def decrypted(file: Path, content: bytes, key: Identities = KEY, *, image: bool = False) -> bytes:
    target = file.with_name("again")
    files.decrypt(file, target, key, plain(content, image=image), NoControl())
    files.publish(target)
    return target.read_bytes()


@settings(max_examples=25, deadline=None)
@given(
    size=some.sampled_from([0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 17])
    | some.integers(0, 300_000),
    image=some.booleans(),
    others=some.integers(0, 3),
    seed=some.integers(0, 255),
)
def test_what_was_encrypted_comes_back_with_its_digest_and_within_the_size_that_was_planned(
    tmp_path_factory: pytest.TempPathFactory, size: int, image: bool, others: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("trip")
    content = bytes((seed + each * 7) % 256 for each in range(min(size, 999))) * (size // 999 + 1)
    content = content[:size]
    source, target = folder / "vda.qcow2", folder / "vda.qcow2.age"
    source.write_bytes(content)
    recipients = [*KEY.recipients, *(Identities.new().recipients[0] for _ in range(others))]
    made = files.encrypt(source, target, recipients, plain(content, image=image), NoControl())
    assert not target.exists()
    files.publish(target)
    held = target.read_bytes()
    assert (made.name, made.bytes, made.sha256) == (target.name, len(held), hashlib.sha256(held).hexdigest())
    assert len(held) <= files.encrypted_size(size, len(recipients))
    assert size < 32 or content not in held
    assert decrypted(target, content, image=image) == content


def test_age_opens_what_we_encrypt_and_we_open_what_age_encrypts(tmp_path: Path) -> None:
    content = os.urandom(3 * CHUNK + 5)
    key_file = tmp_path / "key"
    key_file.write_text(KEY.secrets[0])
    target = encrypted(tmp_path, content, (*Identities.new().recipients, *KEY.recipients))
    opened = subprocess.run(["age", "-d", "-i", key_file, target], check=True, capture_output=True).stdout
    assert opened == content
    for armor in ([], ["-a"]):
        words: list[str | Path] = [
            "age",
            "-r",
            KEY.recipients[0],
            *armor,
            "-o",
            tmp_path / "theirs.age",
            tmp_path / "vda.qcow2",
        ]
        subprocess.run(words, check=True)
        assert decrypted(tmp_path / "theirs.age", content) == content


def test_each_of_several_recipients_can_decrypt_alone(tmp_path: Path) -> None:
    keys = [Identities.new() for _ in range(3)]
    target = encrypted(tmp_path, b"disk", tuple(key.recipients[0] for key in keys))
    assert [decrypted(target, b"disk", key) for key in keys] == [b"disk"] * 3


def test_another_key_opens_nothing_and_is_told_from_damage(tmp_path: Path) -> None:
    target = encrypted(tmp_path, b"disk")
    with pytest.raises(EncryptionKeyError, match="none of the private keys opens") as caught:
        decrypted(target, b"disk", Identities.new())
    assert str(target) in caught.value.message
    with pytest.raises(EncryptionKeyError, match="none of the private keys opens x"):
        files.decipher(target.read_bytes(), "x", Identities.new())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["vda.qcow2", "vda.qcow2.age"]


@pytest.mark.parametrize("kept", [0, 10, 150, 250, CHUNK, CHUNK + 300, 2 * CHUNK + 400, -1])
def test_a_file_that_was_cut_short_is_damaged_wherever_it_was_cut(tmp_path: Path, kept: int) -> None:
    content = os.urandom(3 * CHUNK)
    target = encrypted(tmp_path, content)
    os.truncate(target, kept if kept >= 0 else target.stat().st_size + kept)
    with pytest.raises(DamagedPointError, match="damaged, cut short"):
        decrypted(target, content)
    with pytest.raises(DamagedPointError, match="damaged, cut short"):
        files.decipher(target.read_bytes(), "x", KEY)
    assert not list(tmp_path.glob("again*"))


def test_a_file_that_was_cut_between_two_chunks_is_damaged(tmp_path: Path) -> None:
    content = os.urandom(3 * CHUNK)
    target = encrypted(tmp_path, content)
    os.truncate(target, target.stat().st_size - CHUNK - 16)
    with pytest.raises(DamagedPointError, match="damaged, cut short"):
        decrypted(target, content)


def test_bytes_after_the_end_are_damage(tmp_path: Path) -> None:
    target = encrypted(tmp_path, b"disk")
    with target.open("ab") as file:
        file.write(b"more")
    with pytest.raises(DamagedPointError):
        decrypted(target, b"disk")


@settings(max_examples=25, deadline=None)
@given(place=some.integers(0, 399) | some.integers(400, CHUNK), from_end=some.booleans(), bit=some.integers(0, 7))
def test_any_flipped_bit_is_noticed_and_leaves_no_file(
    tmp_path_factory: pytest.TempPathFactory, place: int, from_end: bool, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    content = os.urandom(CHUNK + 100)
    target = encrypted(folder, content)
    flip_bit(target, target.stat().st_size - 1 - place if from_end else place, bit)
    with pytest.raises((DamagedPointError, EncryptionKeyError)):
        decrypted(target, content)
    assert not list(folder.glob("again*"))


@settings(max_examples=20, deadline=None)
@given(content=some.binary(max_size=300))
def test_any_bytes_that_are_not_age_are_an_error_of_ours(content: bytes) -> None:
    with pytest.raises(DamagedPointError):
        files.decipher(content, "x", KEY)
    with pytest.raises(KvmBackupError):
        files.decipher(b"age-encryption.org/v1\n" + content, "x", KEY)


def test_a_whole_file_of_another_content_is_not_taken_for_the_one_of_the_manifest(tmp_path: Path) -> None:
    target = encrypted(tmp_path, b"some other disk")
    with pytest.raises(DamagedPointError, match="not what its manifest says"):
        decrypted(target, b"disk")
    assert not list(tmp_path.glob("again*"))


@pytest.mark.parametrize("hostile", ["missing", "folder", "link", "fifo"])
def test_a_source_that_is_no_file_is_damage_and_never_waited_for(tmp_path: Path, hostile: str) -> None:
    source = tmp_path / "vda.qcow2"
    (tmp_path / "secret").write_bytes(b"disk")
    if hostile == "folder":
        source.mkdir()
    elif hostile == "link":
        source.symlink_to("secret")
    elif hostile == "fifo":
        os.mkfifo(source)
    with pytest.raises(DamagedPointError):
        files.encrypt(source, tmp_path / "out.age", KEY.recipients, plain(b"disk"), NoControl())
    assert not list(tmp_path.glob("out*"))


def test_a_link_where_the_new_file_goes_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "vda.qcow2.age.new").symlink_to("precious")
    encrypted(tmp_path, b"disk")
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("missing", [1, 5000, CHUNK + 5000])
def test_a_write_that_fails_is_an_error_also_when_it_is_the_last_one(tmp_path: Path, missing: int) -> None:
    content = os.urandom(2 * CHUNK + 6000)
    target = encrypted(tmp_path, content)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) - missing, before[1]))
        with pytest.raises(StorageError, match="File too large"):
            decrypted(target, content)
        # The header is of a random size, of 168 bytes or more.
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) + 200 - missing, before[1]))
        with pytest.raises(StorageError, match="File too large"):
            files.encrypt(tmp_path / "vda.qcow2", tmp_path / "x", KEY.recipients, plain(content), NoControl())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["vda.qcow2", "vda.qcow2.age"]


class Stop:
    """Wants it to end once some of it is done."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, done: int) -> None:
        self.done += done

    def check(self) -> None:
        if self.done:
            raise CancelledError("stopped", hint="Go on.")


def test_a_wish_to_stop_ends_it_in_the_middle_of_a_file(tmp_path: Path) -> None:
    source = tmp_path / "vda.qcow2"
    size = 1 << 40
    with source.open("wb") as file:
        file.truncate(size)  # would take an hour
    stop = Stop()
    with pytest.raises(CancelledError):
        files.encrypt(source, tmp_path / "x.age", KEY.recipients, PlainFile("vda.qcow2", "0" * 64, size), stop)
    assert 0 < stop.done < size
    assert [entry.name for entry in tmp_path.iterdir()] == ["vda.qcow2"]


class Kill(NoControl):
    """Kills the process that encrypts, as the kernel does when memory runs out."""

    def check(self) -> None:
        me = os.getpid()
        for child in Path(f"/proc/{me}/task/{me}/children").read_text().split():
            # Other tests of this process may have started programs that must live on.
            if b"encryption.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(int(child), signal.SIGKILL)


def test_a_process_that_is_killed_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "vda.qcow2").write_bytes(b"disk")
    with pytest.raises(ToolFailedError, match="ended early") as caught:
        files.encrypt(tmp_path / "vda.qcow2", tmp_path / "x.age", KEY.recipients, plain(b"disk"), Kill())
    assert "memory" in caught.value.hint
    assert [entry.name for entry in tmp_path.iterdir()] == ["vda.qcow2"]


class Look(NoControl):
    """Reads what anybody can see of the processes that this one started."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()

    def check(self) -> None:
        me = os.getpid()
        for child in Path(f"/proc/{me}/task/{me}/children").read_text().split():
            with suppress(OSError):
                self.seen.add(
                    Path(f"/proc/{child}/cmdline").read_bytes() + Path(f"/proc/{child}/environ").read_bytes()
                )


def test_no_key_is_seen_in_a_list_of_processes(tmp_path: Path) -> None:
    content = os.urandom(1 << 20)
    target = encrypted(tmp_path, content)
    look = Look()
    files.decrypt(target, tmp_path / "again", KEY, plain(content), look)
    assert any(b"encryption.worker" in each for each in look.seen)
    assert not any(b"AGE-SECRET" in each for each in look.seen)


class Count(NoControl):
    """Adds up."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, done: int) -> None:
        self.done += done


def test_progress_adds_up_to_the_bytes_of_the_source(tmp_path: Path) -> None:
    content = os.urandom(5 * CHUNK)
    (tmp_path / "vda.qcow2").write_bytes(content)
    count = Count()
    files.encrypt(tmp_path / "vda.qcow2", tmp_path / "x.age", KEY.recipients, plain(content), count)
    assert count.done == len(content)
