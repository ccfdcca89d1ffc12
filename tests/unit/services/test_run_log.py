"""The log: whole lines whatever comes, no secrets, nothing lost between processes and rotations."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kvm_backup.domain.errors import KvmBackupError, StorageError
from kvm_backup.services.log_reader import LogReader
from kvm_backup.services.run_log import LEADING_KEYS, LogFile, make_log

NASTY = "\x1b[31m\n\r\0\x9b\u202e\u2028\udcff\"'\\"


@pytest.fixture
def file(tmp_path: Path) -> LogFile:
    return LogFile(tmp_path / "logs" / "kvm-backup.jsonl", max_bytes=1024**2, backups=5)


def lines_of(file: LogFile) -> list[dict[str, Any]]:
    return [json.loads(line) for path in file.parts() for line in path.read_bytes().splitlines()]


def run_lines(file: LogFile, run_id: str) -> list[dict[str, Any]]:
    with closing(LogReader(file, run_id)) as reader:
        return list(reader.new_lines())


def test_every_line_has_the_same_keys_first(file: LogFile) -> None:
    log = make_log(file, host="alpha")
    log.info("tick")
    log.bind(run="r1").warning("notice", vm="web", step="copy", message="m")
    first, second = lines_of(file)
    assert list(first) == list(LEADING_KEYS)
    assert (first["level"], first["event"], first["run"], first["host"]) == ("info", "tick", None, "alpha")
    assert list(second) == [*LEADING_KEYS, "message"]
    assert (second["level"], second["run"], second["vm"], second["step"]) == ("warning", "r1", "web", "copy")
    assert datetime.fromisoformat(first["time"]).utcoffset() == UTC.utcoffset(None)


def test_what_a_vm_is_called_can_neither_break_a_line_nor_steer_a_terminal(file: LogFile) -> None:
    make_log(file, host="alpha").info("notice", vm=NASTY, message=NASTY)
    raw = file.path.read_bytes()
    assert raw.count(b"\n") == 1
    assert raw.removesuffix(b"\n").decode("ascii").isprintable()
    assert lines_of(file)[0]["vm"] == NASTY


def test_secrets_are_not_written(file: LogFile) -> None:
    make_log(file, host="alpha").error(
        "finished", error="cannot reach postgresql+psycopg://me:s3cret@h/d", password="s3cret", api_token="s3cret"
    )
    assert "s3cret" not in file.path.read_text()
    assert "postgresql+psycopg://me:***@h/d" in file.path.read_text()


def test_a_line_stays_short_whatever_is_in_it(file: LogFile) -> None:
    log = make_log(file, host="alpha").bind(run="r1")
    log.info("long", message="x" * 10**6)
    log.info("many", **{f"key{number}": "y" * 4000 for number in range(100)})
    long, many = lines_of(file)
    assert long["message"].startswith("xxxx")
    assert len(long["message"]) < 5000
    assert (many["event"], many["run"], many["cut"]) == ("many", "r1", True)


def test_the_log_is_nobody_elses(file: LogFile) -> None:
    make_log(file, host="alpha").info("tick")
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert file.path.parent.stat().st_mode & 0o777 == 0o700


def test_a_log_that_a_fifo_was_put_in_place_of_is_an_error_and_waits_for_no_reader(file: LogFile) -> None:
    file.info("{}")
    file.path.unlink()
    os.mkfifo(file.path)
    with pytest.raises(StorageError, match=f"{file.path}"):
        file.info("{}")
    reader = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(StorageError, match="no regular file"):
            file.info("{}")
        assert os.read(reader, 10) == b""
    finally:
        os.close(reader)
    assert run_lines(file, "r1") == []


def test_a_full_log_is_put_aside_and_the_oldest_part_goes(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "a.jsonl", max_bytes=1000, backups=2)
    for number in range(30):
        file.msg(json.dumps({"run": "r", "number": number, "padding": "x" * 200}))
    assert [path.name for path in file.parts()] == ["a.jsonl.2", "a.jsonl.1", "a.jsonl"]
    assert all(path.stat().st_size <= 1000 for path in file.parts())
    numbers = [line["number"] for line in run_lines(file, "r")]
    assert numbers == list(range(numbers[0], 30))
    assert len(numbers) > 8


def test_without_old_parts_a_full_log_begins_anew(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "a.jsonl", max_bytes=100, backups=0)
    for number in range(5):
        file.msg(json.dumps({"number": number, "padding": "x" * 80}))
    assert [line["number"] for line in lines_of(file)] == [4]


def test_a_line_larger_than_the_log_may_be_is_written_all_the_same(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "a.jsonl", max_bytes=10, backups=1)
    file.msg(json.dumps({"padding": "x" * 80}))
    assert len(lines_of(file)) == 1


_WRITER = """
import sys
from pathlib import Path
from kvm_backup.services.run_log import LogFile, make_log
log = make_log(LogFile(Path(sys.argv[1]), max_bytes=20_000, backups=100), host="h").bind(run=sys.argv[2])
sys.stdin.readline()
for number in range(300):
    log.info("notice", number=number, padding="x" * (number % 150))
"""


def test_processes_that_write_and_rotate_at_once_lose_and_tear_no_line(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "a.jsonl", max_bytes=20_000, backups=100)
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, file.path, f"r{number}"], stdin=subprocess.PIPE)
        for number in range(4)
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"go\n")
        writer.stdin.flush()
    followed: list[int] = []
    with closing(LogReader(file, "r0")) as reader:
        entries = reader.follow(lambda: all(writer.poll() is not None for writer in writers), lambda: None)
        followed.extend(entry["number"] for entry in entries)
    assert [writer.wait() for writer in writers] == [0] * 4
    assert followed == list(range(300))
    assert len(file.parts()) > 5
    assert len(lines_of(file)) == 1200
    for number in range(4):
        assert [line["number"] for line in run_lines(file, f"r{number}")] == list(range(300))
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()


def test_only_the_lines_of_the_run_are_read_and_what_is_no_line_is_passed_over(file: LogFile) -> None:
    log = make_log(file, host="alpha")
    log.bind(run="r1").info("one")
    log.bind(run="r2").info("other", message="r1")
    file.msg('{"run": "r1"')
    file.msg('["r1"]')
    file.msg("[" * 20_000 + '"r1"')
    with file.path.open("ab") as stream:
        stream.write(b'\xff"r1"\n')
    log.bind(run="r1").info("two")
    assert [line["event"] for line in run_lines(file, "r1")] == ["one", "two"]


def test_a_log_that_does_not_exist_has_no_lines(file: LogFile) -> None:
    assert run_lines(file, "r1") == []


def test_following_gives_what_comes_until_the_run_has_ended(file: LogFile) -> None:
    log = make_log(file, host="alpha").bind(run="r1")
    log.info("one")
    coming = iter(["two", "three"])
    ended = iter([False, False, True])

    def pause() -> None:
        log.info(next(coming))

    with closing(LogReader(file, "r1")) as reader:
        assert [line["event"] for line in reader.follow(lambda: next(ended), pause)] == ["one", "two", "three"]


def test_a_reader_that_was_left_behind_by_many_rotations_goes_on_with_what_is_there(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "a.jsonl", max_bytes=200, backups=2)
    with closing(LogReader(file, "r")) as reader:
        numbers: list[int] = []
        for number in range(20):
            file.msg(json.dumps({"run": "r", "number": number, "padding": "x" * 100}))
            if number in (0, 19):
                numbers += [line["number"] for line in reader.new_lines()]
    assert numbers == [0, 17, 18, 19]


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 600 bytes: what a full disk does to a line, without filling one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_is_full_leaves_no_half_line(file: LogFile, small_files: None) -> None:
    log = make_log(file, host="alpha")
    written = 0
    with suppress(KvmBackupError):
        while written < 10:
            log.info("notice", number=written, padding="x" * 30)
            written += 1
    assert 0 < written < 10
    assert [line["number"] for line in lines_of(file)] == list(range(written))
    assert file.path.read_bytes().endswith(b"\n")
