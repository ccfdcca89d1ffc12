"""kvm-backup user, token and audit: what they do, show, refuse and write down."""

import json
import os
import pty
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kvm_backup.cli.audit import summary as summary_of_line
from kvm_backup.cli.token import summary as summary_of_token
from kvm_backup.cli.user import summary as summary_of_user
from kvm_backup.database.engine import Database, sqlite_url
from kvm_backup.domain.account import Actor, Outcome, Role, Via
from kvm_backup.domain.errors import EXIT_BAD_ARGUMENTS, EXIT_DONE, EXIT_FAILED, EXIT_NOT_FOUND
from kvm_backup.services.access import AccessServices, make_access
from tests.unit.cli.conftest import COMMAND, Command, Ended
from tests.unit.cli.test_documents import SECTIONS, first_column, words
from tests.unit.cli.test_runs import refused

PASSWORD = "trente-deux chevaux"
LINK = re.compile(r"http://localhost:8080/setup/[A-Za-z0-9_-]{43}")


@pytest.fixture
def access(tmp_path: Path) -> AccessServices:
    """What `command` has."""
    database = Database.open(sqlite_url(tmp_path / "state" / "kvm-backup.db"))
    return make_access(database, lambda: datetime.now(UTC))


def with_input(command: Command, text: bytes, *arguments: str) -> Ended:
    done = subprocess.run(
        [COMMAND, *arguments], env=command.environment, input=text, capture_output=True, timeout=60, check=False
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def on_terminal(command: Command, answers: list[tuple[str, str]], *arguments: str) -> tuple[int, str]:
    """Type each answer when its question appears; returns the status and all that the terminal showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, *arguments],
        env=command.environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = ""
    try:
        for question, answer in answers:
            while question not in shown:
                shown += os.read(ours, 1000).decode()
            os.write(ours, f"{answer}\n".encode())
            shown = shown.replace(question, "")
        while True:
            shown += os.read(ours, 1000).decode()
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(ours)
    return process.wait(60), shown


def test_a_user_is_added_with_a_link_that_works_and_no_password(command: Command, access: AccessServices) -> None:
    ended = command("user", "add", "Alice", "--role", "operator")
    assert ended.status == EXIT_DONE
    assert LINK.fullmatch(ended.output.strip())
    secret = ended.output.strip().rsplit("/", 1)[-1]
    assert access.accounts.invitation(secret).user_name == "alice"
    assert access.accounts.find("alice").role.value == "operator"
    shown = json.loads(command("user", "add", "bob", "--json").output)
    assert LINK.fullmatch(shown.pop("link"))
    [bob] = [user for user in json.loads(command("user", "list", "--json").output) if user["name"] == "bob"]
    assert shown == bob
    assert (bob["role"], bob["can_sign_in"], bob["last_sign_in"]) == ("viewer", False, None)
    assert command("user", "add", "carol").error.startswith("user carol added with the role viewer. ")


def test_a_password_comes_from_standard_input_for_scripts(command: Command, access: AccessServices) -> None:
    added = with_input(command, f"{PASSWORD}\r\nignored\n".encode(), "user", "add", "alice", "--password-stdin")
    assert (added.status, added.error) == (EXIT_DONE, "")
    assert "setup" not in added.output
    access.sign_in.sign_in("alice", PASSWORD, address="::1", agent="x")
    changed = with_input(command, "été à Alger 2026".encode(), "user", "password", "alice", "--password-stdin")
    assert changed.status == EXIT_DONE
    access.sign_in.sign_in("alice", "été à Alger 2026", address="::1", agent="x")
    for text, told in ((b"", "no password on standard input"), (b"short\n", "too short"), (b"\xff" * 20, "no valid")):
        refusal = with_input(command, text, "user", "password", "alice", "--password-stdin")
        assert told in refused(refusal, EXIT_BAD_ARGUMENTS)


def test_a_password_is_asked_for_twice_and_never_shown(command: Command, access: AccessServices) -> None:
    command("user", "add", "alice")
    answers = [("New password: ", PASSWORD), ("Once more: ", PASSWORD)]
    status, shown = on_terminal(command, answers, "user", "password", "alice")
    assert (status, "alice has a new password" in shown) == (EXIT_DONE, True), shown
    assert PASSWORD not in shown
    access.sign_in.sign_in("alice", PASSWORD, address="::1", agent="x")
    answers[1] = ("Once more: ", PASSWORD + "x")
    status, shown = on_terminal(command, answers, "user", "password", "alice")
    assert (status, "not the same" in shown) == (EXIT_BAD_ARGUMENTS, True)
    assert "no terminal" in refused(command("user", "password", "alice"), EXIT_BAD_ARGUMENTS)
    assert "only one of" in refused(
        command("user", "password", "alice", "--link", "--password-stdin"), EXIT_BAD_ARGUMENTS
    )


def test_a_link_for_a_new_password_leaves_the_old_one_until_it_is_used(
    command: Command, access: AccessServices
) -> None:
    access.accounts.add("alice", Role.VIEWER, PASSWORD)
    link = command("user", "password", "alice", "--link").output.strip()
    access.sign_in.sign_in("alice", PASSWORD, address="::1", agent="x")
    access.accounts.accept(link.rsplit("/", 1)[-1], "", "quarante-deux zèbres")
    access.sign_in.sign_in("alice", "quarante-deux zèbres", address="::1", agent="x")


def test_users_are_changed_listed_and_removed(command: Command, access: AccessServices) -> None:
    with_input(command, PASSWORD.encode(), "user", "add", "root", "--role", "administrator", "--password-stdin")
    command("user", "add", "bob")
    assert command("user", "role", "bob", "operator").status == EXIT_DONE
    assert command("user", "disable", "bob").status == EXIT_DONE
    lines = command("user", "list", COLUMNS="100").output.splitlines()
    assert lines[0].split() == ["NAME", "ROLE", "STATE", "LAST", "LOGIN"]
    assert lines[1].split()[:3] == ["bob", "operator", "disabled"]
    assert lines[2].split()[:3] == ["root", "administrator", "active"]
    assert command("user", "enable", "bob").status == EXIT_DONE
    for arguments in (("disable", "root"), ("remove", "root", "--yes"), ("role", "root", "viewer")):
        assert "only administrator" in refused(command("user", *arguments), EXIT_FAILED)
    assert "not confirmed" in refused(command("user", "remove", "bob"), EXIT_FAILED)
    status, shown = on_terminal(command, [("[y/N]:", "n")], "user", "remove", "bob")
    assert (status, "not confirmed" in shown) == (EXIT_FAILED, True)
    status, shown = on_terminal(command, [("[y/N]:", "y")], "user", "remove", "bob")
    assert (status, "removed" in shown) == (EXIT_DONE, True)
    assert [user.name for user in access.accounts.all()] == ["root"]


@pytest.mark.parametrize("name", ["<b>", "a b", "é", "'--", "a\nb", "x" * 65, ".x", ""])
def test_a_name_that_no_user_can_have_is_refused(command: Command, name: str) -> None:
    refused(command("user", "add", name), EXIT_BAD_ARGUMENTS)
    for verb in ("password", "enable", "disable", "remove"):
        refused(command("user", verb, name), EXIT_NOT_FOUND)


def test_a_token_is_printed_once_and_works_until_it_is_revoked(command: Command, access: AccessServices) -> None:
    command("user", "add", "alice", "--role", "operator")
    ended = command("token", "add", "prometheus", "--user", "alice", "--role", "operator", "--days", "7")
    assert re.fullmatch(r"kvmb_[A-Za-z0-9_-]{43}\n", ended.output)
    assert "shown this once" in ended.error
    found = access.api_tokens.who(ended.output.strip())
    assert found is not None
    [listed] = json.loads(command("token", "list", "--json").output)
    assert (listed["name"], listed["user"], listed["role"]) == ("prometheus", "alice", "operator")
    assert ended.output.strip() not in command("token", "list", "--json").output
    for_ever = json.loads(command("token", "add", "x", "--user", "alice", "--never-expires", "--json").output)
    assert (for_ever["expires"], for_ever["role"]) == (None, "viewer")
    assert access.api_tokens.who(for_ever["token"]) is not None
    assert command("token", "revoke", listed["id"][:6]).status == EXIT_DONE
    assert access.api_tokens.who(ended.output.strip()) is None
    refused(command("token", "revoke", listed["id"]), EXIT_NOT_FOUND)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--user", "nobody"), EXIT_NOT_FOUND),
        (("--user", "alice", "--role", "administrator"), EXIT_FAILED),
        (("--user", "alice", "--role", "emperor"), EXIT_BAD_ARGUMENTS),
        (("--user", "alice", "--days", "0"), EXIT_BAD_ARGUMENTS),
        (("--user", "alice", "--days", "7", "--never-expires"), EXIT_BAD_ARGUMENTS),
        ((), EXIT_BAD_ARGUMENTS),
    ],
)
def test_a_token_that_cannot_be_is_not_made(
    command: Command, access: AccessServices, arguments: tuple[str, ...], status: int
) -> None:
    command("user", "add", "alice", "--role", "operator")
    refused(command("token", "add", "x", *arguments), status)
    assert access.api_tokens.all() == []


def test_the_audit_log_tells_what_commands_did_and_failed_to_do(command: Command) -> None:
    assert command("audit", "list").output == "Nothing happened yet.\n"
    command("user", "add", "alice")
    command("user", "add", "alice")
    command("user", "role", "alice", "operator", SUDO_USER="christophe")
    command("token", "add", "x\x1b[31m", "--user", "alice")
    lines = json.loads(command("audit", "list", "--json").output)
    told = [(line["action"], line["subject"], line["outcome"], line["detail"].split(" ")[0]) for line in lines]
    assert told == [
        ("token.add", "x\\x1b[31m", "failed", "bad-argument"),
        ("user.role", "alice", "done", "operator"),
        ("user.add", "alice", "failed", "user-exists"),
        ("user.add", "alice", "done", "viewer"),
    ]
    assert lines[1]["who"].endswith(" (sudo: christophe)")
    assert {line["via"] for line in lines} == {"command"}
    assert [line["subject"] for line in json.loads(command("audit", "list", "--json", "--search", "OPERATOR").output)]
    assert command("audit", "list", "--search", "nosuch").output == "No such line.\n"
    shown = command("audit", "list", "--limit", "1", COLUMNS="200").output
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 2


def test_a_database_that_cannot_be_used_is_the_error_that_is_told(command: Command, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "kvm-backup.db").write_bytes(b"something else entirely\n" * 100)
    assert "not a database" in refused(command("user", "add", "alice"), EXIT_FAILED)


def test_the_commands_speak_french(command: Command) -> None:
    ended = command("user", "add", "alice", KVM_BACKUP_LANG="fr")
    assert "utilisateur alice ajouté" in ended.error
    assert "il y a déjà un utilisateur" in command("user", "add", "alice", KVM_BACKUP_LANG="fr").error


def test_the_keys_of_users_tokens_and_lines_are_documented(access: AccessServices) -> None:
    owner = access.accounts.add("alice", Role.VIEWER)
    token, _text = access.api_tokens.add(owner, "x", Role.VIEWER, None)
    access.audit.add(Actor("alice", Via.WEB), "user.add", "x", Outcome.DONE)
    assert first_column(SECTIONS["user list"]) == set(summary_of_user(owner))
    assert first_column(SECTIONS["token list"]) == set(summary_of_token(token))
    assert first_column(SECTIONS["audit list"]) == set(summary_of_line(access.audit.newest()[0]))
    assert {outcome.value for outcome in Outcome} | {via.value for via in Via} <= words(SECTIONS["audit list"])
