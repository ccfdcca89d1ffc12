"""kvm-backup key: what is shown, what is asked back, what is recorded, and that no private key goes anywhere else."""

import fcntl
import os
import pty
import re
import select
import stat
import subprocess
import termios
from pathlib import Path

import pytest

from kvm_backup.domain.errors import EXIT_BAD_ARGUMENTS, EXIT_DONE, EXIT_FAILED
from kvm_backup.repository.encryption.keys import Identities
from kvm_backup.repository.encryption.proof import FOLDER, ProvedRecipients
from tests.unit.cli.conftest import COMMAND, Command
from tests.unit.cli.test_access_commands import with_input

SECRET = re.compile(r"AGE-SECRET-KEY-1[0-9A-Z]{58}")
PUBLIC = re.compile(r"age1[0-9a-z]{58}")
QUESTION = "The private key, or the file that holds it: "


@pytest.fixture
def proved(tmp_path: Path) -> ProvedRecipients:
    """What `command` has."""
    return ProvedRecipients(tmp_path / "state" / FOLDER)


class Terminal:
    """A command on a terminal of its own; what it prints is read up to what is waited for."""

    def __init__(self, command: Command, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [COMMAND, *arguments],
            env=command.environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self.shown = ""
        self._seen = 0

    def until(self, text: str) -> str:
        """All that was shown since the last call, up to `text`."""
        while text not in self.shown[self._seen :]:
            assert select.select([self._ours], [], [], 60)[0], self.shown
            self.shown += os.read(self._ours, 1000).decode()
        end = self.shown.index(text, self._seen) + len(text)
        piece, self._seen = self.shown[self._seen : end], end
        return piece

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def end(self) -> int:
        try:
            while select.select([self._ours], [], [], 60)[0] and (piece := os.read(self._ours, 1000)):
                self.shown += piece.decode()
        except OSError:  # the other end is closed
            pass
        status = self._process.wait(60)
        os.close(self._ours)
        return status


def everything_written(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_key_is_shown_once_asked_back_and_only_then_its_public_one_told(
    command: Command, proved: ProvedRecipients, tmp_path: Path
) -> None:
    terminal = Terminal(command, "key", "new")
    shown = terminal.until(QUESTION)
    [secret] = SECRET.findall(shown)
    assert "SHOWN THIS ONCE" in shown
    assert not PUBLIC.search(shown)
    terminal.type(f"{secret}\n")
    assert terminal.end() == EXIT_DONE
    assert SECRET.findall(terminal.shown) == [secret]  # what was pasted is not echoed
    [recipient] = Identities((secret,)).recipients
    assert PUBLIC.findall(terminal.shown) == [recipient]
    proved.require([recipient])
    written = everything_written(tmp_path)
    assert recipient.encode() in written
    assert secret.encode() not in written


def test_the_key_may_be_given_back_by_the_file_that_it_was_stored_in(
    command: Command, proved: ProvedRecipients, tmp_path: Path
) -> None:
    terminal = Terminal(command, "key", "new")
    [secret] = SECRET.findall(terminal.until(QUESTION))
    stored = tmp_path / "stick" / "nas.key"
    stored.parent.mkdir()
    stored.write_text(f"# the NAS\n{secret}\n")
    terminal.type(f"{stored}\n")
    assert terminal.end() == EXIT_DONE
    proved.require(Identities((secret,)).recipients)


def test_a_key_that_was_pasted_with_its_comments_is_taken(command: Command, proved: ProvedRecipients) -> None:
    terminal = Terminal(command, "key", "new")
    [secret] = SECRET.findall(terminal.until(QUESTION))
    terminal.type("# created: today\n")
    terminal.until(QUESTION)
    terminal.type(f"{secret}\n")
    assert terminal.end() == EXIT_DONE
    proved.require(Identities((secret,)).recipients)


def test_a_key_that_is_not_given_back_is_forgotten(command: Command, tmp_path: Path) -> None:
    terminal = Terminal(command, "key", "new")
    [secret] = SECRET.findall(terminal.until(QUESTION))
    wrong = (Identities.new().secrets[0], secret[:-3], str(tmp_path / "nothing.key"))
    for answer in wrong:
        terminal.type(f"{answer}\n")
        if answer != wrong[-1]:
            terminal.until(QUESTION)
    assert terminal.end() == EXIT_FAILED
    assert "was not given back" in terminal.shown
    assert not PUBLIC.search(terminal.shown.split("SHOWN THIS ONCE")[0])
    assert not (tmp_path / "state" / FOLDER).exists()
    assert terminal.shown.count(secret[:-3]) == 1


def test_an_end_of_input_or_an_interrupt_makes_no_key(command: Command, tmp_path: Path) -> None:
    for letter in ("\x04", "\x03"):
        terminal = Terminal(command, "key", "new")
        terminal.until(QUESTION)
        terminal.type(letter)
        assert terminal.end() != EXIT_DONE
        assert not (tmp_path / "state" / FOLDER).exists()


def test_without_a_terminal_a_private_key_is_not_printed(command: Command) -> None:
    ended = command("key", "new")
    assert ended.status == EXIT_BAD_ARGUMENTS
    assert "--out FILE" in ended.error
    assert not SECRET.search(ended.output + ended.error)


def test_a_script_gets_the_private_key_in_a_file_of_its_own_and_the_public_one_printed(
    command: Command, proved: ProvedRecipients, tmp_path: Path
) -> None:
    file = tmp_path / "nas.key"
    ended = command("key", "new", "--out", str(file))
    assert ended.status == EXIT_DONE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    recipient = ended.output.strip()
    assert Identities.load(file).recipients == (recipient,)
    proved.require([recipient])
    assert not SECRET.search(ended.output + ended.error)
    told = subprocess.run(["age-keygen", "-y", file], check=True, capture_output=True, text=True).stdout.strip()
    assert told == recipient


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_what_is_there_already_is_never_overwritten_by_a_key(command: Command, tmp_path: Path, kind: str) -> None:
    place = tmp_path / "nas.key"
    if kind == "file":
        place.write_text("the only key")
    elif kind == "link":
        place.symlink_to("dangling")
    else:
        place.mkdir()
    ended = command("key", "new", "--out", str(place))
    assert ended.status == EXIT_FAILED
    assert "is there already" in ended.error
    assert not (tmp_path / "dangling").exists()
    assert kind != "file" or place.read_text() == "the only key"
    assert not (tmp_path / "state" / FOLDER).exists()


def test_a_check_proves_the_public_keys_of_a_file_or_the_ones_that_are_named(
    command: Command, proved: ProvedRecipients, tmp_path: Path
) -> None:
    keys = [Identities.new() for _ in range(3)]
    file = tmp_path / "keys"
    file.write_text("\n".join(key.secrets[0] for key in keys[:2]))
    recipients = [key.recipients[0] for key in keys]
    ended = command("key", "check", str(file), "--recipient", recipients[1])
    assert (ended.status, ended.output) == (EXIT_DONE, f"✓ {recipients[1]} can be decrypted\n")
    assert proved.unproved(recipients) == [recipients[0], recipients[2]]
    assert command("key", "check", str(file)).status == EXIT_DONE
    assert proved.unproved(recipients) == [recipients[2]]
    refused = command("key", "check", str(file), "--recipient", recipients[2])
    assert refused.status == EXIT_FAILED
    assert "cannot be decrypted with this key" in refused.error
    assert proved.unproved(recipients) == [recipients[2]]


def test_a_key_comes_from_standard_input_for_scripts(command: Command, proved: ProvedRecipients) -> None:
    key = Identities.new()
    ended = with_input(command, f"# mine\n{key.secrets[0]}\n".encode(), "key", "check", "-")
    assert ended.status == EXIT_DONE
    proved.require(key.recipients)
    rubbish = with_input(command, f"{key.secrets[0][:50]}\n".encode(), "key", "check", "-")
    assert rubbish.status == EXIT_FAILED
    assert "what was given" in rubbish.error
    assert key.secrets[0][:50] not in rubbish.error


def test_the_audit_log_tells_who_proved_which_public_key(command: Command, tmp_path: Path) -> None:
    command("key", "new", "--out", str(tmp_path / "nas.key"))
    [recipient] = Identities.load(tmp_path / "nas.key").recipients
    listed = command("audit", "list", "--json").output
    assert "key.prove" in listed
    assert recipient in listed
    assert not SECRET.search(listed)


def test_the_conversation_is_in_french_for_the_french(command: Command) -> None:
    command.environment["KVM_BACKUP_LANG"] = "fr"
    terminal = Terminal(command, "key", "new")
    shown = terminal.until("La clé privée, ou le fichier qui la contient")
    assert "CLÉ PRIVÉE" in shown
    terminal.type(f"{SECRET.findall(shown)[0]}\n")
    assert terminal.end() == EXIT_DONE
