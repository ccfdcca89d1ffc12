"""kvm-backup key: for what is encrypted before it leaves. A private key goes to the terminal or a file only."""

import getpass
import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from kvm_backup.bootstrap import Application
from kvm_backup.cli.audited import audited
from kvm_backup.cli.context import application
from kvm_backup.cli.language import _
from kvm_backup.cli.output import cell, console, print_error, printable, prose
from kvm_backup.cli.program import Program
from kvm_backup.cli.progress import quiet_screen
from kvm_backup.domain.errors import BadArgumentError, EncryptionKeyError, TargetExistsError
from kvm_backup.domain.phrase import phrase
from kvm_backup.repository import durable
from kvm_backup.repository.encryption.keys import Identities, check_recipient
from kvm_backup.repository.encryption.proof import prove

app = Program("Keys that encrypt what leaves this host.")

_ATTEMPTS = 3
_WIDTH = 78
_INPUT_MAX = 64 << 10
_COMMENTS_MAX = 10
_NAME_MAX = 256
_GIVEN = phrase("what was given")

_answers: dict[str, Identities | None] = {}
"""What was answered in this process, by what it was asked for."""


@app.command("new")
def new(
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the private key into this new file instead of showing it."),
    ] = None,
) -> None:
    """Make a key. The private one is shown once, and asked back; the public one is printed.

    Whoever loses the private key loses all backups that are encrypted for it.
    """
    parts = application()
    identities = Identities.new()
    if out is None:
        _show_and_ask_back(identities)
        _record(parts, identities.recipients, identities)
    else:
        _write(out, identities)
        _record(parts, identities.recipients, Identities.load(out))
        _say(_("The private key is in {file}. Keep it away from this host, too.").format(file=printable(str(out))))
    [recipient] = identities.recipients
    _say(_("It passed a test decryption. The public key, for 'recipients' in the settings:"))
    console().print(recipient)


@app.command("check")
def check(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The file with the private keys; - reads them from standard input.")
    ],
    recipient: Annotated[
        list[str] | None,
        typer.Option(
            "--recipient", metavar="AGE1", help="A public key to test; may be repeated. Else those of FILE."
        ),
    ] = None,
) -> None:
    """Test that the keys in a file decrypt what is encrypted for their public keys.

    A remote is not used before each of its recipients has passed this test on this host.
    """
    wanted = [check_recipient(each) for each in recipient or []]
    identities = _from_input() if file == "-" else Identities.load(Path(file))
    tested = wanted or identities.recipients
    _record(application(), tested, identities)
    for each in tested:
        console().print("[green]✓[/green] " + _("{recipient} can be decrypted").format(recipient=cell(each)))


def ask_for_identities(place: str, require_key: Callable[[Identities], None]) -> Identities | None:
    """The private keys to read `place` with, from whoever waits at the terminal; None where nobody does.

    What is no key, or raises EncryptionKeyError in `require_key`, is told and asked for again; the last try raises.
    Asked once in a process. Raises EncryptionKeyError, StorageError.
    """
    if not sys.stdin.isatty() or threading.current_thread() is not threading.main_thread():
        return None
    if place not in _answers:
        with quiet_screen():
            _say(_("{place} is encrypted.").format(place=printable(place)))
            _answers[place] = _asked(require_key)
    return _answers[place]


def _asked(require_key: Callable[[Identities], None]) -> Identities | None:
    attempt = 1
    while answer := _typed(_("Its private key, or the file that holds it: ")):
        try:
            identities = _parsed(answer)
            require_key(identities)
        except EncryptionKeyError as error:
            if attempt == _ATTEMPTS:
                raise
            attempt += 1
            print_error(error)
        else:
            return identities
    return None


def _record(parts: Application, recipients: tuple[str, ...] | list[str], identities: Identities) -> None:
    for recipient in recipients:
        with audited(parts, "key.prove", recipient):
            parts.proved_recipients.prove(recipient, identities)


def _show_and_ask_back(identities: Identities) -> None:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise BadArgumentError(
            phrase("there is no terminal to show a private key on"), hint=phrase("Scripts give --out FILE.")
        )
    title = f" {_('PRIVATE KEY, SHOWN THIS ONCE')} "
    _say(f"\n{title:-^{_WIDTH}}\n\n{identities.secrets[0]}\n\n{'-' * _WIDTH}\n")
    _say(
        prose(
            _(
                "Store it now, and not on this host: print it, or put it into a password manager. Without it nothing "
                "that is encrypted for it can ever be restored, by anybody."
            )
        )
    )
    _say(prose(_("Then give it back, from where you stored it; what you paste is not shown.")))
    for _attempt in range(_ATTEMPTS):
        answer = _typed(_("The private key, or the file that holds it: "))
        if answer is None:
            break
        try:
            prove(identities.recipients[0], _parsed(answer))
        except EncryptionKeyError as error:
            print_error(error)
        else:
            return
    raise EncryptionKeyError(
        phrase("the private key was not given back"),
        hint=phrase("This key was forgotten and will not be used. Make another one when you can store it."),
    )


def _write(path: Path, identities: Identities) -> None:
    if os.path.lexists(path):
        raise TargetExistsError(
            phrase("{path} is there already", path=path),
            hint=phrase("It was left as it is: it may hold the only key to backups. Give another name."),
        )
    durable.write_new(path, identities.file_text(datetime.now(UTC)).encode())
    durable.sync_folder(path.absolute().parent)


def _typed(question: str) -> str | None:
    """A line that is not shown, None at the end of input. Comments, as in a file that is pasted, are passed over."""
    for _line in range(_COMMENTS_MAX):
        # Nothing has begun that a first Ctrl-C should let end.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            line = getpass.getpass(question).strip()
        except EOFError:
            return None
        finally:
            signal.signal(signal.SIGINT, before)
        if not line.startswith("#"):
            return line
    return ""


def _parsed(text: str) -> Identities:
    """Raises EncryptionKeyError, StorageError."""
    if _names_a_file(text):
        return Identities.load(Path(os.path.expanduser(text)))  # noqa: PTH111 - Path's own fails for an unknown ~user
    return Identities.parse(text, _GIVEN)


def _names_a_file(text: str) -> bool:
    if text.upper().startswith("AGE-"):
        return False
    return "/" in text or (0 < len(text) < _NAME_MAX and Path(text).exists())


def _from_input() -> Identities:
    if sys.stdin.isatty():
        return _parsed(_typed(_("The private key, or the file that holds it: ")) or "")
    return Identities.parse(sys.stdin.read(_INPUT_MAX), _GIVEN)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
