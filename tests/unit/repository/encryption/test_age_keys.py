"""Keys as text: what is taken, what is refused, and that no message repeats a private one."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pyrage
import pytest
from hypothesis import given
from hypothesis import strategies as some

from kvm_backup.domain.errors import EncryptionKeyError
from kvm_backup.repository.encryption.keys import Identities, check_recipient
from kvm_backup.repository.encryption.proof import ProvedRecipients, prove

SECRET = Identities.new().secrets[0]
SSH_RECIPIENT = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN"

# Computed by the test that wants it, for it takes a second on purpose.
BY_PASSPHRASE = "what pyrage encrypts with a passphrase"

UNUSABLE = {
    "nothing": ("", "holds no key"),
    "only comments": ("# created: yesterday\n\n", "holds no key"),
    "a passphrase": (BY_PASSPHRASE, "encrypted with a passphrase"),
    "a passphrase, as text": ("-----BEGIN AGE ENCRYPTED FILE-----\nYWdl", "encrypted with a passphrase"),
    "an SSH key": ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n", "an SSH key"),
    "a public SSH key": (SSH_RECIPIENT, "an SSH key"),
    "a plugin's": ("AGE-PLUGIN-YUBIKEY-1QQPQ2QQ", "of another kind"),
    "the public key": (Identities.new().recipients[0], "it is the public key"),
    "half a key": (SECRET[:40], "no whole key"),
    "a changed letter": (SECRET[:-1] + ("Q" if SECRET[-1] != "Q" else "P"), "no whole key"),
    "a good one and rubbish": (f"{SECRET}\nrubbish\n", "no whole key"),
    "too many": (f"{SECRET}\n" * 65, "more than 64"),
    "control characters": (f"{SECRET}\x00", "no whole key"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_is_no_private_x25519_key_is_refused_with_its_kind_and_never_repeated(kind: str) -> None:
    text, cause = UNUSABLE[kind]
    if text is BY_PASSPHRASE:
        text = pyrage.passphrase.encrypt(b"x", "secret").decode("latin-1")
    with pytest.raises(EncryptionKeyError, match=cause) as caught:
        Identities.parse(text, "nas.key")
    told = f"{caught.value.message} {caught.value.hint}"
    assert "nas.key" in told
    assert all(line not in told for line in text.splitlines() if len(line) > 8)


@given(some.text())
def test_any_text_is_a_key_file_or_a_key_error(text: str) -> None:
    with pytest.raises(EncryptionKeyError):
        Identities.parse(text, "x")


@given(some.text() | some.from_regex(r"\Aage1[a-z0-9]{58}\Z"))
def test_any_text_is_a_recipient_or_a_key_error(text: str) -> None:
    with pytest.raises(EncryptionKeyError):
        check_recipient(text)


def test_ssh_and_private_keys_are_no_recipients_and_a_private_one_is_not_repeated() -> None:
    with pytest.raises(EncryptionKeyError, match="no public key of age") as caught:
        check_recipient(SSH_RECIPIENT)
    assert "SSH keys" in caught.value.hint
    for text in (SECRET, SECRET.lower()):
        with pytest.raises(EncryptionKeyError, match="private key was given") as caught:
            check_recipient(text)
        assert text not in f"{caught.value.message} {caught.value.hint}"


def test_files_of_age_keygen_are_read_and_age_keygen_reads_ours(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    subprocess.run(["age-keygen", "-o", theirs], check=True, capture_output=True)
    public = subprocess.run(["age-keygen", "-y", theirs], check=True, capture_output=True, text=True).stdout.strip()
    assert Identities.load(theirs).recipients == (public,)
    ours = tmp_path / "ours"
    made = Identities.new()
    ours.write_text(made.file_text(datetime(2026, 11, 22, tzinfo=UTC)))
    told = subprocess.run(["age-keygen", "-y", ours], check=True, capture_output=True, text=True).stdout.strip()
    assert (told,) == made.recipients
    assert f"# public key: {told}" in ours.read_text()
    assert Identities.load(ours).secrets == made.secrets


def test_a_key_file_that_is_missing_a_folder_or_huge_is_a_key_error_with_its_path(tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    huge.write_bytes(b"#" * 100_000)
    for path, cause in ((tmp_path / "no.key", "not there"), (tmp_path, "not there"), (huge, "larger")):
        with pytest.raises(EncryptionKeyError, match=cause) as caught:
            Identities.load(path)
        assert str(path) in caught.value.message


def test_a_key_file_may_be_a_link_to_where_the_key_is_kept(tmp_path: Path) -> None:
    (tmp_path / "real").write_text(SECRET)
    (tmp_path / "link").symlink_to("real")
    assert Identities.load(tmp_path / "link").secrets == (SECRET,)


def test_identities_show_no_secret_when_they_are_printed() -> None:
    identities = Identities((SECRET,))
    assert SECRET not in f"{identities} {identities!r}"


def test_a_recipient_is_proved_by_its_own_key_only(tmp_path: Path) -> None:
    proved = ProvedRecipients(tmp_path / "state" / "proved")
    mine, other = Identities.new(), Identities.new()
    [recipient] = mine.recipients
    with pytest.raises(EncryptionKeyError, match="nobody has shown") as caught:
        proved.require([recipient])
    assert f"kvm-backup key check FILE --recipient {recipient}" in caught.value.hint
    with pytest.raises(EncryptionKeyError, match="cannot be decrypted with this key"):
        proved.prove(recipient, other)
    assert proved.unproved([recipient]) == [recipient]
    proved.prove(recipient, Identities((*other.secrets, *mine.secrets)))
    proved.require([recipient])
    again = ProvedRecipients(tmp_path / "state" / "proved")
    assert again.unproved([recipient, *other.recipients]) == list(other.recipients)


def test_a_name_that_leads_out_of_the_folder_is_no_recipient(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("x")
    proved = ProvedRecipients(tmp_path / "proved")
    for text in ("../passwd", "", "."):
        with pytest.raises(EncryptionKeyError):
            proved.unproved([text])
        with pytest.raises(EncryptionKeyError):
            prove(text, Identities.new())


def test_nothing_secret_is_written_where_proofs_are_kept(tmp_path: Path) -> None:
    identities = Identities.new()
    ProvedRecipients(tmp_path).prove(identities.recipients[0], identities)
    [file] = tmp_path.iterdir()
    assert file.name == identities.recipients[0]
    assert "AGE-SECRET" not in file.read_text()
