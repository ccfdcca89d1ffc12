"""Opening, migrating and refusing a database, on SQLite and on PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, create_engine, inspect, make_url, text

import kvm_backup.database
from kvm_backup.database.engine import MIGRATION_LOCK, Database, parse_url, sqlite_url
from kvm_backup.database.tables import METADATA, VERSION, VERSION_TABLE
from kvm_backup.domain.errors import DatabaseError, NewerDatabaseError
from tests.postgresql import PASSWORD, Server


def test_the_migrations_make_what_the_program_expects(url: URL) -> None:
    with Database.open(url).engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, METADATA) == []
        assert context.get_current_revision() == VERSION


def test_the_newest_migration_is_the_version_of_the_program() -> None:
    folder = Path(kvm_backup.database.__file__).parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(folder))
    assert ScriptDirectory.from_config(config).get_current_head() == VERSION


def test_a_database_of_a_newer_program_is_refused_and_left_alone(url: URL) -> None:
    database = Database.open(url)
    with database.transaction(write=True) as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
        connection.execute(text("CREATE TABLE future (a INTEGER)"))
    database.close()
    with pytest.raises(NewerDatabaseError, match="of version 9999, newer than") as caught:
        Database.open(url)
    assert "newer one" in caught.value.hint
    assert PASSWORD not in caught.value.message + caught.value.hint
    with database.transaction() as connection:
        assert connection.execute(text("SELECT count(*) FROM future")).scalar_one() == 0


def test_a_migration_that_fails_leaves_nothing(url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("alembic.op.create_index", _broken)
        with pytest.raises(RuntimeError, match="in the middle"):
            Database.open(url)
    with Database.open(url).transaction() as connection:
        assert connection.execute(text("SELECT count(*) FROM runs")).scalar_one() == 0


def _broken(*_: object) -> None:
    raise RuntimeError("in the middle")


def test_a_server_that_is_away_is_an_error_without_the_password(tmp_path: Path) -> None:
    url = URL.create("postgresql+psycopg", "keeper", PASSWORD, database="x", query={"host": str(tmp_path)})
    with pytest.raises(DatabaseError, match=r"cannot be used: .*connect") as caught:
        Database.open(url)
    assert caught.value.retryable
    assert_hidden(caught.value)


def test_a_wrong_password_is_an_error_that_does_not_show_it(postgresql: Server) -> None:
    with pytest.raises(DatabaseError, match="password authentication failed") as caught:
        Database.open(postgresql.url.set(password="wr0ng-and-s3cret"))
    assert "wr0ng" not in caught.value.message + caught.value.hint


def test_the_password_is_taken_out_of_what_the_server_says(postgresql: Server) -> None:
    with (
        pytest.raises(DatabaseError, match=r'type integer: "\*\*\*"'),
        Database.open(postgresql.url).transaction() as held,
    ):
        held.execute(text("SELECT CAST(:value AS integer)"), {"value": PASSWORD})


def test_who_opens_while_another_migrates_waits_and_finds_it_done(empty_database: URL) -> None:
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    tables = text("SELECT count(*) FROM pg_tables WHERE tablename IN ('runs', 'run_steps')")
    engine = create_engine(empty_database)
    with engine.connect() as first, ThreadPoolExecutor(1) as pool:
        first.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
        second = pool.submit(Database.open, empty_database)
        try:
            while not first.execute(waiting).scalar_one():
                assert not second.done()
            assert first.execute(tables).scalar_one() == 0
        finally:
            first.commit()
        second.result().close()
        assert first.execute(tables).scalar_one() == 2
    engine.dispose()


def assert_hidden(error: DatabaseError) -> None:
    shown = error.message + error.hint
    assert PASSWORD not in shown
    assert "w%25rld" not in shown


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "postgresql",
        "postgresql://s3cret@",
        "mysql://me:s3cret@h/d",
        "postgresql+psycopg2://a:s3cret@h/d",
        "://",
    ],
)
def test_a_url_that_is_none_is_refused_without_being_shown(value: str) -> None:
    with pytest.raises(DatabaseError, match=r"database\.url") as caught:
        parse_url(value)
    assert "s3cret" not in caught.value.message + caught.value.hint


def test_a_short_url_gets_the_driver_that_comes_with_the_program() -> None:
    assert parse_url("postgresql://a@h/d") == make_url("postgresql+psycopg://a@h/d")


@pytest.mark.parametrize("name", ["a b", "per%20cent", "question?mode=ro", "hash#x", "é"])
def test_the_sqlite_file_may_lie_anywhere_and_is_nobody_elses(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "kvm-backup.db"
    Database.open(sqlite_url(path)).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_no_database_is_an_error_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "kvm-backup.db"
    path.write_bytes(b"something else entirely\n" * 100)
    with pytest.raises(DatabaseError, match="not a database"):
        Database.open(sqlite_url(path))
    assert path.read_bytes() == b"something else entirely\n" * 100


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatabaseError, match=r"cannot be used: (Not a directory|File exists)$"):
        Database.open(sqlite_url(tmp_path / "file" / "state" / "kvm-backup.db"))


def test_a_file_that_was_moved_away_while_it_was_open_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "kvm-backup.db"
    database = Database.open(sqlite_url(path))
    with database.transaction(write=True) as connection:
        connection.execute(text("CREATE TABLE of_the_old_file (a INTEGER)"))
    for part in tmp_path.glob("kvm-backup.db*"):
        part.rename(tmp_path / f"old-{part.name}")
    with database.transaction() as connection:
        assert connection.execute(text("SELECT count(*) FROM runs")).scalar_one() == 0
    # What others see by the same name is the same file.
    with create_engine(sqlite_url(path)).connect() as other, database.transaction(write=True) as connection:
        connection.execute(text("CREATE TABLE of_the_new_file (a INTEGER)"))
        assert not inspect(connection).has_table("of_the_old_file")
        connection.commit()
        assert inspect(other).has_table("of_the_new_file")


def test_a_folder_that_vanished_is_not_made_again_but_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    database = Database.open(sqlite_url(folder / "kvm-backup.db"))
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(DatabaseError, match="No such file"), database.transaction():
        raise AssertionError("a transaction on a file that is not there")
    assert not folder.exists()
    (tmp_path / "elsewhere").rename(folder)
    with database.transaction() as connection:
        assert connection.execute(text("SELECT count(*) FROM runs")).scalar_one() == 0
