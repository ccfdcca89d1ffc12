"""Real QEMU tools around the engine: images, dirty bitmaps, NBD servers."""

import contextlib
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvm_backup.engine.capture import capture_disk
from kvm_backup.engine.qcow2.format import Identity
from kvm_backup.engine.source import NbdSource

IDENTITY = Identity("20261122T020000Z", "vda", None)


class Control:
    """Counts what it is told, and raises once that reaches a limit."""

    def __init__(self, stop_at: int | None = None, error: Exception | None = None) -> None:
        self.done = 0
        self.checks = 0
        self._stop_at = stop_at
        self._error = error

    def advance(self, done: int) -> None:
        self.done += done

    def check(self) -> None:
        self.checks += 1
        if self._error is not None and self._stop_at is not None and self.done >= self._stop_at:
            raise self._error


@dataclass
class Server:
    socket: Path
    process: "subprocess.Popen[bytes]"


def run_tool(*argv: str | Path) -> str:
    return subprocess.run([str(word) for word in argv], check=True, capture_output=True, text=True).stdout


def _answers(path: Path) -> bool:
    """The socket is there before it accepts anybody."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
            return probe.recv(8) == b"NBDMAGIC"
        except OSError:
            return False


@contextlib.contextmanager
def nbd_server(image: Path, image_format: str, bitmap: str | None) -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="kb-engine-"))
    path = folder / "nbd"
    argv = ["qemu-nbd", "-r", "-t", "-f", image_format, "-x", "vda", "-k", str(path), str(image)]
    process = subprocess.Popen([*argv[:1], *(["-B", bitmap] if bitmap else []), *argv[1:]])
    try:
        while not _answers(path):
            assert process.poll() is None, "qemu-nbd did not start"
            time.sleep(0.005)
        yield Server(path, process)
    finally:
        # Not SIGTERM: qemu-nbd forgets one that comes between its socket and its main loop.
        process.kill()
        process.wait()
        shutil.rmtree(folder)


@dataclass
class CapturedFile:
    path: Path
    sha256: str
    identity: Identity = IDENTITY


def capture_file(disk: Path, path: Path) -> CapturedFile:
    with (
        nbd_server(disk, "raw", None) as server,
        NbdSource.connect(server.socket, "vda", dirty_bitmap=None) as source,
    ):
        image = capture_disk(source, path, identity=IDENTITY, backing_file=None, control=Control())
    return CapturedFile(path, image.sha256)


@pytest.fixture(scope="session")
def tool() -> Callable[..., str]:
    """Run a program to success; returns its output."""
    return run_tool


@pytest.fixture(scope="session")
def serve() -> Callable[..., AbstractContextManager[Server]]:
    """serve(image, format, bitmap): a read-only qemu-nbd."""
    return nbd_server


@pytest.fixture(scope="session")
def capture_raw() -> Callable[[Path, Path], CapturedFile]:
    """capture_raw(raw disk, image): a full image of it."""
    return capture_file


@pytest.fixture(scope="session")
def make_control() -> type[Control]:
    return Control


@pytest.fixture
def mixed_disk(tmp_path: Path) -> Path:
    """A raw disk of 20 MiB and 1536 bytes: text, noise, zeros that were written, and holes."""
    path = tmp_path / "mixed.raw"
    noise = random.Random(7)
    with path.open("wb") as file:
        file.truncate(20 * 1024 * 1024 + 1536)
        file.write(b"".join(b"line %d of some text\n" % number for number in range(150_000)))
        file.seek(6 << 20)
        file.write(noise.randbytes(3 << 20))
        file.seek(12 << 20)
        file.write(bytes(1 << 20))
        file.seek((15 << 20) + 4096)
        file.write(noise.randbytes(1000))
        file.seek(-1536, 2)
        file.write(b"the end of the disk".ljust(1536, b"."))
    return path


@pytest.fixture(params=["tmpfs", "ext4"])
def small_file_system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A mounted file system with a few MB of room."""
    folder = tmp_path / "small"
    folder.mkdir()
    if request.param == "tmpfs":
        run_tool("mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder)
    else:
        image = tmp_path / "small.img"
        with image.open("wb") as file:
            file.truncate(6 << 20)
        run_tool("mkfs.ext4", "-q", "-O", "^has_journal", image)
        run_tool("mount", "-o", "loop", image, folder)
    try:
        yield folder
    finally:
        run_tool("umount", folder)


@pytest.fixture
def mount_without_direct_io(tmp_path: Path) -> Iterator[Path]:
    """A ramfs: it refuses O_DIRECT, which today's tmpfs takes."""
    folder = tmp_path / "ramfs"
    folder.mkdir()
    run_tool("mount", "-t", "ramfs", "ramfs", folder)
    try:
        yield folder
    finally:
        run_tool("umount", folder)


@pytest.fixture
def captured(mixed_disk: Path, tmp_path: Path) -> CapturedFile:
    """The mixed disk as a full image."""
    return capture_file(mixed_disk, tmp_path / "full.qcow2")
