"""Encryption from the first key to a new machine, by commands as processes."""

import os
import pty
import select
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from kvm_backup.repository.encryption.keys import Identities
from tests.integration.product import Product
from tests.integration.ship.servers import Server
from tests.unit.builders import Shelf
from tests.unit.cli.conftest import COMMAND

QUESTION = "Its private key, or the file that holds it: "


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "safe" / "nas.key"
    file.parent.mkdir()
    file.write_text(Identities.new().secrets[0])
    return file


def host(folder: Path, server: Server) -> Product:
    return Product(folder, variables={"KVM_BACKUP_SSH_CONFIG": str(server.config), "TZ": "UTC"})


@pytest.fixture
def shipped(tmp_path: Path, server: Server, key_file: Path) -> Shelf:
    """Two points that lie encrypted on the server; the host that shipped them has the public key only."""
    product = host(tmp_path / "product", server)
    shelf = Shelf(product.repository)
    shelf.add(shelf.add(), seed=2)
    [recipient] = Identities.load(key_file).recipients
    add = ("repository", "add", "nas", str(server.address()), "--yes", "--recipient", recipient)
    refused = product.run(*add)
    assert refused.status != 0
    assert "kvm-backup key check" in " ".join(refused.stderr.split())
    assert not any(server.store.iterdir())
    product.run("key", "check", key_file).succeeded()
    product.run(*add).succeeded()
    product.run("ship").succeeded()
    assert len(list(server.store.glob("*/*/vda.qcow2.age"))) == 2
    return shelf


def test_a_new_machine_with_the_key_lists_and_verifies_what_is_there(
    tmp_path: Path, server: Server, shipped: Shelf, key_file: Path
) -> None:
    new = host(tmp_path / "new", server)
    add = (
        "repository",
        "add",
        "nas",
        str(server.address()),
        "--only-read",
        "--yes",
        "--identity-file",
        str(key_file),
    )
    new.run(*add).succeeded()
    rows = new.points(repository="nas")
    assert [row["id"] for row in rows] == [point.id for point in shipped.repository.all_points()]
    new.run("verify", "--all", "-r", "nas", "--deep").succeeded()
    damaged = next(server.store.glob("*/*/vda.qcow2.age"))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    failed = new.run("verify", "--all", "-r", "nas")
    assert failed.status == 1
    assert "vda.qcow2" in failed.stdout


def test_a_machine_without_the_key_asks_at_the_terminal_and_without_one_says_what_it_needs(
    tmp_path: Path, server: Server, shipped: Shelf, key_file: Path
) -> None:
    new = host(tmp_path / "new", server)
    add = ("repository", "add", "nas", str(server.address()), "--only-read", "--yes")
    refused = new.run(*add)
    assert refused.status == 1
    assert "identity_file" in " ".join(refused.stderr.split())
    shown = answered(new.environment, [f"{key_file}\n"], *add)
    assert "is encrypted." in shown
    assert key_file.read_text() not in shown
    assert len(new.points(repository="nas")) == len(list(shipped.repository.all_points()))


def test_a_wrong_key_for_what_was_never_read_is_asked_for_again(
    tmp_path: Path, server: Server, shipped: Shelf, key_file: Path
) -> None:
    new = host(tmp_path / "new", server)
    add = ("repository", "add", "nas", str(server.address()), "--only-read", "--yes")
    shown = answered(new.environment, [f"{Identities.new().secrets[0]}\n", f"{key_file}\n"], *add)
    assert "none of the private keys opens" in shown
    assert len(new.points(repository="nas")) == len(list(shipped.repository.all_points()))


@pytest.mark.parametrize(("account", "keep", "told"), [("adder", "nothing", True), ("shell", "nothing", False)])
def test_who_adds_a_remote_is_told_that_images_stay_where_nobody_can_compute_digests(
    tmp_path: Path, server: Server, key_file: Path, account: str, keep: str, told: bool
) -> None:
    product = host(tmp_path / "product", server)
    Shelf(product.repository).add()
    product.run("key", "check", key_file).succeeded()
    [recipient] = Identities.load(key_file).recipients
    add = ("repository", "add", "nas", str(server.address(account)), "--yes", "--recipient", recipient)
    added = product.run(*add, "--keep-local", keep).succeeded()
    assert ("whatever keep_local says" in " ".join(added.stdout.split())) == told


def test_a_wrong_key_is_told_and_asked_for_again_below_no_bar(
    tmp_path: Path, server: Server, shipped: Shelf, key_file: Path
) -> None:
    new = host(tmp_path / "new", server)
    add = ("repository", "add", "nas", str(server.address()), "--only-read", "--yes")
    answered(new.environment, [f"{key_file}\n"], *add)
    another = Identities.new().secrets[0]
    [vm] = {point["vm"] for point in new.points(repository="nas")}
    answers = ["no key\n", f"{another}\n", f"{key_file}\n"]
    shown = answered(new.environment, answers, "verify", "-r", "nas", f"{vm}/latest")
    refused = shown.split("is encrypted.")[1].split(QUESTION)
    assert len(refused) == len(answers) + 1
    assert "cannot be used" in refused[1]
    assert "none of the private keys opens" in refused[2]
    # A bar is drawn over its line.
    assert not any("\x1b[2K" in piece for piece in refused[:-1])
    assert another not in shown


def answered(environment: dict[str, str], answers: Sequence[str], *words: str) -> str:
    """What a terminal shows while the question for a private key is answered, each time it is asked."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [COMMAND, *words], env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        shown, asked = "", 0
        try:
            while select.select([ours], [], [], 60)[0] and (piece := os.read(ours, 1000)):
                shown += piece.decode()
                if asked < min(shown.count(QUESTION), len(answers)):
                    os.write(ours, answers[asked].encode())
                    asked += 1
        except OSError:  # the other end is closed
            pass
        finally:
            os.close(ours)
    assert process.returncode == 0, shown
    return shown
