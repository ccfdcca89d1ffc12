"""The secret part of hidden names: kept with the mirror, so that a shipment that was cut goes on."""

from pathlib import Path

from kvm_backup.repository.ssh.token import kept_token


def test_a_token_is_kept_with_the_mirror_for_nobody_else_to_read(tmp_path: Path) -> None:
    token = kept_token(tmp_path)
    assert len(token) == 32
    assert kept_token(tmp_path) == token
    [file] = tmp_path.iterdir()
    assert file.stat().st_mode & 0o077 == 0


def test_two_mirrors_have_two_tokens_and_one_that_is_not_there_gets_no_folder(tmp_path: Path) -> None:
    away = tmp_path / "away"
    assert kept_token(tmp_path) != kept_token(away)
    assert not away.exists()


def test_a_token_that_is_none_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".token").write_bytes(b"../../elsewhere")
    token = kept_token(tmp_path)
    assert token.isalnum()
    assert kept_token(tmp_path) == token
