"""`kvm-backup repository add` as its user types it, on real servers: at a terminal, in scripts, on a new machine."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kvm_backup.domain.errors import EXIT_BAD_ARGUMENTS, EXIT_DONE, EXIT_FAILED, EXIT_NOT_FOUND
from kvm_backup.repository.ssh.founding import found
from kvm_backup.repository.ssh.transfer import Transfer
from tests.integration.ship.servers import Server, make_key
from tests.unit.builders import Shelf

COMMAND = Path(sys.executable).with_name("kvm-backup")
WIDTH = 80
BEFORE = "# mine\n[retention]\nlast = 9\n"


@dataclass(frozen=True)
class Said:
    status: int
    text: str


@dataclass
class Person:
    """Types commands on a host with a state folder and settings of its own."""

    folder: Path
    server: Server
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.settings.write_text(BEFORE)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "KVM_BACKUP_CONFIG": str(self.settings),
            "KVM_BACKUP_STATE_DIR": str(self.folder / "state"),
            "KVM_BACKUP_SSH_CONFIG": str(self.server.config),
            "KVM_BACKUP_LIBVIRT__URI": "qemu+unix:///system?socket=/nonexistent",
        }

    @property
    def settings(self) -> Path:
        return self.folder / "kvm-backup.toml"

    def tables(self) -> list[dict[str, Any]]:
        assert self.settings.read_text().startswith(BEFORE)
        found: list[dict[str, Any]] = tomllib.loads(self.settings.read_text()).get("repository", [])
        return found

    def types(self, *words: str, **environment: str) -> Said:
        """Without a terminal, as a script does."""
        done = subprocess.run(
            [COMMAND, *words],
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
            check=False,
        )
        return Said(done.returncode, done.stdout.decode())

    def adds(self, name: str, url: str, *options: str, **environment: str) -> Said:
        return self.types("repository", "add", name, url, *options, **environment)

    def at_a_terminal(self, answer: str, *words: str, **environment: str) -> Said:
        """Answers the first question; ssh would ask there, too, if it asked anything."""
        process, terminal = pty.fork()
        if process == 0:
            os.execve(COMMAND, [str(COMMAND), *words], self.environment | environment)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, WIDTH, 0, 0))
        text = ""
        asked = False
        while True:
            try:
                piece = os.read(terminal, 4096)
            except OSError:  # Linux tells so that the other end is closed
                break
            if not piece:
                break
            text += piece.decode()
            if not asked and "/N]" in text:
                os.write(terminal, f"{answer}\n".encode())
                asked = True
        os.close(terminal)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", text.replace("\r\n", "\n"))
        return Said(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), plain)

    def listed(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in json.loads(self.types("repository", "list", "--json").text)}


@pytest.fixture
def person(tmp_path: Path, server: Server) -> Person:
    return Person(tmp_path / "person", server)


@pytest.fixture
def shelf(person: Person) -> Shelf:
    """The default repository of that host."""
    (person.folder / "state").mkdir()
    return Shelf(person.folder / "state" / "repository")


def url(server: Server, account: str = "shell") -> str:
    return str(server.address(account))


def fingerprint(server: Server) -> str:
    told = subprocess.run(
        ["ssh-keygen", "-l", "-f", server.root / "host_key.pub"], capture_output=True, check=True, text=True
    )
    return told.stdout.split()[1]


def in_one_line(text: str) -> str:
    return " ".join(text.split())


def test_an_unknown_server_shows_its_key_and_asks_and_a_yes_writes_it_down(person: Person, shelf: Shelf) -> None:
    shelf.add()
    person.server.known_hosts.unlink()
    done = person.at_a_terminal("y", "repository", "add", "nas", url(person.server))
    assert done.status == EXIT_DONE, done.text
    assert f"  256 {fingerprint(person.server)} (ED25519)\n" in done.text
    assert "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub" in done.text
    assert "server ssh-ed25519 " in person.server.known_hosts.read_text()
    assert person.tables() == [{"name": "nas", "url": url(person.server), "of": "default"}]
    assert "1 point waits. Ship it now: kvm-backup ship --to nas" in done.text
    assert "may also change and remove what is there" in in_one_line(done.text)
    long = [line for line in done.text.splitlines() if len(line) > WIDTH and "/" not in line]
    assert long == []


def test_a_no_writes_nothing_anywhere(person: Person, shelf: Shelf) -> None:
    person.server.known_hosts.unlink()
    done = person.at_a_terminal("", "repository", "add", "nas", url(person.server))
    assert done.status == EXIT_FAILED
    assert "nobody has accepted the server's host key" in done.text
    assert person.tables() == []
    assert not person.server.known_hosts.exists()
    assert list(person.server.store.iterdir()) == []


def test_it_speaks_french_and_takes_a_french_yes(person: Person, shelf: Shelf) -> None:
    person.server.known_hosts.unlink()
    done = person.at_a_terminal("o", "repository", "add", "nas", url(person.server), KVM_BACKUP_LANG="fr")
    assert done.status == EXIT_DONE, done.text
    assert "Est-ce la même\u202f? [o/N]\u202f:" in done.text
    assert "C'est une copie du dépôt default de cette machine." in done.text


@pytest.mark.parametrize("options", [("--yes",), ()])
def test_without_a_person_an_unknown_server_is_refused_with_the_ssh_command(
    person: Person, shelf: Shelf, options: tuple[str, ...]
) -> None:
    person.server.known_hosts.unlink()
    done = person.adds("nas", url(person.server), *options)
    assert done.status == EXIT_FAILED
    assert f"ssh -F {person.server.config} shell" in done.text
    assert "without --yes" in done.text
    assert person.tables() == []
    assert not person.server.known_hosts.exists()


def test_yes_accepts_a_server_that_known_hosts_holds(person: Person, shelf: Shelf) -> None:
    shelf.add()
    done = person.adds("nas", url(person.server), "--yes", "--bandwidth", "20MiB", "--keep-local", "newest-chain")
    assert done.status == EXIT_DONE, done.text
    [table] = person.tables()
    assert (table["bandwidth"], table["keep_local"], table["of"]) == ("20MiB", "newest-chain", "default")
    shipped = person.types("ship", "--to", "nas")
    assert shipped.status == EXIT_DONE, shipped.text
    assert person.listed()["nas"]["points"] == 1


def test_a_server_with_another_key_than_the_known_one_is_refused_whatever_is_answered(
    person: Person, shelf: Shelf
) -> None:
    person.server.stop()
    person.server.new_host_key()
    person.server.start()
    for done in (
        person.adds("nas", url(person.server), "--yes"),
        person.at_a_terminal("y", "repository", "add", "nas", url(person.server)),
    ):
        assert done.status == EXIT_FAILED
        assert "another host key than the one that is known" in done.text
        assert "[y/N]" not in done.text
    assert person.tables() == []


def test_a_server_that_was_installed_anew_is_met_again_once_its_old_key_is_gone(person: Person, shelf: Shelf) -> None:
    shelf.add()
    person.adds("nas", url(person.server), "--yes", "--keep-local", "newest-chain")
    before = person.settings.read_text()
    person.server.stop()
    person.server.new_host_key()
    person.server.start()
    assert "another host key" in person.types("ship").text
    person.server.known_hosts.unlink()
    refused = person.adds("nas", url(person.server), "--yes")
    assert refused.status == EXIT_FAILED
    assert "nobody has accepted" in in_one_line(refused.text)
    done = person.at_a_terminal("y", "repository", "add", "nas", url(person.server))
    assert done.status == EXIT_DONE, done.text
    assert fingerprint(person.server) in done.text
    assert "is configured already, and its server is known" in in_one_line(done.text)
    assert person.settings.read_text() == before
    shipped = person.types("ship")
    assert shipped.status == EXIT_DONE, shipped.text
    assert person.listed()["nas"]["points"] == 1


def test_a_configured_name_with_another_address_is_refused(person: Person, shelf: Shelf) -> None:
    person.adds("nas", url(person.server), "--yes")
    before = person.settings.read_text()
    done = person.adds("nas", url(person.server) + "2", "--yes")
    assert done.status == EXIT_BAD_ARGUMENTS
    assert "configured already" in in_one_line(done.text)
    assert person.settings.read_text() == before


@pytest.mark.parametrize("words", [["ship"], ["ship", "--waiting"], ["ship", "--waiting", "--json"]])
def test_what_hides_points_that_wait_is_told_and_is_no_success(
    person: Person, shelf: Shelf, words: list[str]
) -> None:
    shelf.add()
    person.adds("nas", url(person.server), "--yes")
    person.types("ship")
    [mirror] = (person.folder / "state" / "remotes").iterdir()
    (mirror / "kvm-backup.json").write_bytes(b"")
    shelf.add(seed=3)
    done = person.types(*words)
    assert done.status == EXIT_FAILED, done.text
    assert "repository rescan nas" in in_one_line(done.text)
    assert "nothing waits" not in done.text


def test_a_key_that_the_server_does_not_take_is_told_and_nothing_is_written(person: Person, shelf: Shelf) -> None:
    (person.server.root / "shell").unlink()
    make_key(person.server.root / "shell")
    done = person.adds("nas", url(person.server), "--yes")
    assert done.status == EXIT_FAILED
    assert "the server refused the login" in done.text
    public = person.server.root / "shell.pub"
    config = person.server.config
    assert f"The line in {public} must be in authorized_keys of the account root@shell" in in_one_line(done.text)
    assert f"'ssh-copy-id -i {public} -F {config} root@shell'" in in_one_line(done.text)
    assert f"'ssh -F {config} -v shell'" in in_one_line(done.text)
    assert person.tables() == []


def test_without_any_key_it_is_told_how_to_make_one(person: Person, shelf: Shelf) -> None:
    for key in person.server.root.glob("shell*"):
        key.unlink()
    done = person.adds("nas", url(person.server), "--yes")
    assert done.status == EXIT_FAILED
    assert "'ssh-keygen -t ed25519' makes one" in in_one_line(done.text)


def test_the_key_that_only_adds_is_noticed_and_pruning_needs_another(person: Person, shelf: Shelf) -> None:
    done = person.adds("nas", url(person.server, "keeper"), "--yes")
    assert done.status == EXIT_DONE, done.text
    assert "This key can only add, and not read" in in_one_line(done.text)
    assert "prune_url" in done.text
    refused = person.types("repository", "rescan", "nas")
    assert refused.status == EXIT_FAILED
    assert "the account may only add" in refused.text
    assert "prune_url" in refused.text


def test_with_an_account_that_prunes_the_key_that_only_adds_is_all_that_is_needed(
    person: Person, shelf: Shelf
) -> None:
    done = person.adds("nas", url(person.server, "keeper"), "--prune-url", url(person.server, "rrsync"), "--yes")
    assert done.status == EXIT_DONE, done.text
    assert "This key can only add: what is there is safe" in in_one_line(done.text)
    assert person.types("repository", "rescan", "nas").status == EXIT_DONE


@pytest.mark.parametrize("words", ["-wo -no-del -no-overwrite", "-wo -no-del", "-wo -no-overwrite", "-wo", ""])
def test_no_key_that_rrsync_holds_back_is_called_harmless(person: Person, shelf: Shelf, words: str) -> None:
    text = person.server.authorized.read_text()
    person.server.authorized.write_text(text.replace("-wo -no-del -no-overwrite", words))
    done = person.adds("nas", url(person.server, "adder"), "--yes")
    assert done.status == EXIT_DONE, done.text
    assert "may also change and remove" in in_one_line(done.text)


def test_an_account_that_may_not_write_cannot_be_a_copy(person: Person, shelf: Shelf) -> None:
    done = person.adds("nas", url(person.server, "reader"), "--yes")
    assert done.status == EXIT_FAILED
    assert "the account may not do that" in done.text
    assert person.tables() == []


def test_two_accounts_that_see_different_folders_are_refused(person: Person, shelf: Shelf) -> None:
    done = person.adds("nas", f"{url(person.server)}/inside", "--prune-url", url(person.server, "rrsync"), "--yes")
    assert done.status == EXIT_FAILED
    assert "the account that prunes sees another folder" in done.text
    assert person.tables() == []


def test_a_folder_that_is_not_there_is_made(person: Person, shelf: Shelf) -> None:
    done = person.adds("nas", f"{url(person.server)}/new/deep", "--yes")
    assert done.status == EXIT_DONE, done.text
    here = (shelf.root / "kvm-backup.json").read_bytes()
    assert (person.server.store / "new" / "deep" / "kvm-backup.json").read_bytes() == here


def test_a_server_that_does_not_answer_leaves_the_settings_alone(person: Person, shelf: Shelf) -> None:
    person.server.stop()
    done = person.adds("nas", url(person.server), "--yes")
    assert done.status == EXIT_FAILED
    assert "cannot be reached" in done.text
    assert person.tables() == []


def test_a_copy_that_was_added_before_tells_what_it_holds(person: Person, shelf: Shelf) -> None:
    shelf.add()
    person.adds("nas", url(person.server), "--yes")
    person.types("ship")
    person.settings.write_text(BEFORE)
    done = person.adds("again", url(person.server), "--yes")
    assert "1 point is there already." in done.text
    assert "waits" not in done.text
    assert person.listed()["again"]["points"] == 1


@pytest.fixture
def others(tmp_path: Path, server: Server) -> Shelf:
    """The repository of another host, on the server with one point."""
    other = Shelf(tmp_path / "other")
    other.add()
    with server.connection() as connection:
        transfer = Transfer(connection)
        found(transfer, other.root)
        transfer.up(other.root, str(server.store))
    return other


def test_a_new_machine_reads_what_another_one_shipped(person: Person, others: Shelf) -> None:
    done = person.adds("nas", url(person.server), "--yes")
    assert done.status == EXIT_DONE, done.text
    assert "It holds the points of another repository: nothing is shipped there" in in_one_line(done.text)
    assert "1 point is there: kvm-backup point list -r nas" in done.text
    assert person.tables() == [{"name": "nas", "url": url(person.server)}]
    # Nobody asked for a repository here.
    assert not (person.folder / "state" / "repository").exists()
    listed = person.types("point", "list", "-r", "nas", "--json")
    [point] = json.loads(listed.text)
    assert point["vm"] == "web"


def test_a_new_machine_with_the_key_that_only_adds_is_told_which_account_may_read(
    person: Person, others: Shelf
) -> None:
    refused = person.adds("nas", url(person.server, "keeper"), "--yes")
    assert refused.status == EXIT_FAILED
    said = in_one_line(refused.text)
    assert "holds the points of another repository, and this key cannot read them" in said
    assert "name in the URL the account that the old host had in its prune_url" in said
    assert person.tables() == []
    done = person.adds("nas", url(person.server, "rrsync"), "--yes")
    assert (done.status, person.listed()["nas"]["points"]) == (EXIT_DONE, 1), done.text


def test_a_host_with_a_repository_of_its_own_reads_anothers_and_does_not_mix_them(
    person: Person, shelf: Shelf, others: Shelf
) -> None:
    mine = shelf.add()
    assert person.adds("nas", url(person.server), "--yes").status == EXIT_DONE
    assert person.tables() == [{"name": "nas", "url": url(person.server)}]
    listed = person.listed()
    assert (listed["default"]["points"], listed["nas"]["points"]) == (1, 1)
    assert listed["nas"]["id"] == others.repository.id
    assert listed["default"]["id"] == mine.repository


@pytest.mark.parametrize("options", [("--of", "default"), ("--keep-local", "nothing")])
def test_who_wants_a_copy_is_told_that_the_folder_is_anothers(
    person: Person, shelf: Shelf, others: Shelf, options: tuple[str, ...]
) -> None:
    before = sorted(person.server.store.rglob("*"))
    done = person.adds("nas", url(person.server), "--yes", *options)
    assert done.status == EXIT_FAILED
    assert "holds the points of another repository" in done.text
    assert person.tables() == []
    assert sorted(person.server.store.rglob("*")) == before


def test_what_is_only_read_needs_an_account_that_may_read_only(person: Person, others: Shelf) -> None:
    done = person.adds("nas", url(person.server, "reader"), "--only-read", "--yes")
    assert done.status == EXIT_DONE, done.text
    assert person.tables() == [{"name": "nas", "url": url(person.server, "reader")}]
    others.add()
    with person.server.connection() as connection:
        Transfer(connection).up(others.root, str(person.server.store))
    rescanned = person.types("repository", "rescan", "nas")
    assert "2 points of repository nas are in the catalogue" in rescanned.text
    assert person.listed()["nas"]["points"] == 2


def test_an_empty_folder_cannot_be_only_read(person: Person) -> None:
    done = person.adds("nas", url(person.server), "--only-read", "--yes")
    assert done.status == EXIT_NOT_FOUND
    assert "holds no repository" in done.text
    assert person.tables() == []


def test_a_remote_whose_disk_is_not_mounted_keeps_what_was_known(person: Person, others: Shelf) -> None:
    person.adds("nas", url(person.server), "--yes")
    away = person.server.store.rename(person.server.store.with_name("away"))
    person.server.store.mkdir()
    refused = person.types("repository", "rescan", "nas")
    assert refused.status == EXIT_NOT_FOUND
    assert "holds no repository now" in refused.text
    assert person.listed()["nas"]["points"] == 1
    person.server.store.rmdir()
    away.rename(person.server.store)
    assert person.types("repository", "rescan", "nas").status == EXIT_DONE


def test_a_remote_that_was_founded_anew_is_read_anew(person: Person, others: Shelf, tmp_path: Path) -> None:
    person.adds("nas", url(person.server), "--yes")
    subprocess.run(["find", person.server.store, "-mindepth", "1", "-delete"], check=True)
    with person.server.connection() as connection:
        found(Transfer(connection), Shelf(tmp_path / "third").root)
    rescanned = person.types("repository", "rescan", "nas")
    assert rescanned.status == EXIT_DONE, rescanned.text
    assert person.listed()["nas"]["points"] == 0


@pytest.fixture
def jump(tmp_path: Path, server: Server) -> Iterator[Server]:
    """A second server that the first one is reached through."""
    hosts = server.config.read_text()
    with Server(tmp_path / "jump") as made:
        server.config.write_text(
            f"Host hop\n  HostName 127.0.0.1\n  Port {made.port}\n  User root\n"
            f"  IdentityFile {made.root / 'shell'}\n"
            f"  IdentitiesOnly yes\n  HostKeyAlias server\n  UserKnownHostsFile {made.known_hosts}\n"
            f"Host shell\n  ProxyJump hop\n{hosts}"
        )
        yield made


def test_a_jump_host_of_the_ssh_configuration_is_used_for_the_key_and_the_login(
    person: Person, shelf: Shelf, jump: Server
) -> None:
    person.server.known_hosts.unlink()
    done = person.at_a_terminal("y", "repository", "add", "nas", url(person.server))
    assert done.status == EXIT_DONE, done.text
    assert fingerprint(person.server) in done.text
    jump.stop()
    beyond = person.types("repository", "rescan", "nas")
    assert beyond.status == EXIT_FAILED
    assert "cannot be reached" in beyond.text


def test_a_jump_host_that_is_not_known_is_told_and_never_asked_about(
    person: Person, shelf: Shelf, jump: Server
) -> None:
    jump.known_hosts.unlink()
    person.server.known_hosts.unlink()
    done = person.at_a_terminal("yes", "repository", "add", "nas", url(person.server))
    assert done.status == EXIT_FAILED, done.text
    assert "a host on the way there shows a key that is not known here" in done.text
    assert "authenticity of host" not in done.text  # nor did ssh ask by itself
    assert not jump.known_hosts.exists()
    assert person.tables() == []


def test_the_ssh_configuration_is_the_one_that_the_setting_names(person: Person, shelf: Shelf) -> None:
    del person.environment["KVM_BACKUP_SSH_CONFIG"]
    without = person.adds("nas", url(person.server), "--yes")
    assert without.status == EXIT_FAILED  # the alias is in that file alone
    named = person.adds("nas", url(person.server), "--yes", KVM_BACKUP_SSH_CONFIG=str(person.server.config))
    assert named.status == EXIT_DONE, named.text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("nas", "ssh://me:geheim@host/srv"), "it holds a password"),
        (("nas", "host:/srv"), "it does not begin with ssh://"),
        (("nas", "ssh://host/srv", "--bandwidth-hours", "25:00-08:00 2MiB"), "bandwidth_hours: has an hour beyond"),
        (("nas", "ssh://host/srv", "--of", "nope"), "no repository is called that"),
        (("nas", "ssh://host/srv", "--of", "default", "--only-read"), "exclude each other"),
        (("nas", "ssh://host/srv", "--only-read", "--keep-local", "nothing"), "of no use without of"),
        (("nas", "ssh://host/srv", "--recipient", "age1nope"), "recipients: must be the public key"),
        (("default", "ssh://host/srv"), "name of a repository on this host"),
        (("a b", "ssh://host/srv"), "cannot be a repository's name"),
    ],
)
def test_what_cannot_be_added_is_refused_before_any_server_is_asked(
    person: Person, words: tuple[str, ...], expected: str
) -> None:
    done = person.types("repository", "add", *words)
    assert done.status == EXIT_BAD_ARGUMENTS
    assert expected in done.text
    assert "geheim" not in done.text
    assert person.tables() == []
    assert not (person.folder / "state" / "repository").exists()
