"""Builds the guest: a Debian kernel and an initramfs of busybox and qemu-guest-agent, kept in the cache."""

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lab.cpio import CpioWriter
from lab.errors import LabError
from lab.guest.debs import unpack_guest_packages
from lab.guest.modules import modules_in_load_order
from lab.locks import file_lock
from lab.paths import cache_folder
from lab.programs import run

COMMAND_LINE = (
    "console=ttyS0 quiet no_timer_check mitigations=off nokaslr reboot=t panic=-1 random.trust_cpu=on "
    "apparmor=0 selinux=0 audit=0 8250.nr_uarts=1"
)

_FILES = Path(__file__).parent / "files"
_FOLDERS = (
    "bin", "sbin", "dev", "proc", "sys", "run", "tmp", "etc", "var", "var/run", "data", "mnt", "lab", "lab/modules",
    "lib", "lib64", "usr", "usr/bin", "usr/sbin",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class GuestImage:
    """What QEMU boots directly."""

    kernel: Path
    initramfs: Path


def recipe() -> str:
    """Names the guest that this version of the lab builds: 12 hexadecimal digits of a digest of all it is made by."""
    digest = hashlib.sha256()
    sources = [*Path(__file__).parent.glob("*.py"), *_FILES.iterdir(), Path(__file__).parents[1] / "cpio.py"]
    for path in sorted(path for path in sources if path.is_file()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def guest_image() -> GuestImage:
    """The guest of this recipe, from the cache, or built now (which downloads about 35 MB of packages).

    Safe to call from several processes: one builds, the others wait. Raises LabError.
    """
    cache = cache_folder()
    folder = cache / recipe()
    if not folder.is_dir():
        with file_lock(cache / "build.lock"):
            if not folder.is_dir():
                _build(cache, folder)
    return GuestImage(folder / "vmlinuz", folder / "initramfs")


def _build(cache: Path, folder: Path) -> None:
    for left in cache.glob("building-*"):
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix="building-", dir=cache) as scratch:
        work = Path(scratch)
        root, download, result = work / "root", work / "download", work / "result"
        for path in (root, download, result):
            path.mkdir()
        unpack_guest_packages(root, download)
        shutil.copyfile(_one(root, "boot/vmlinuz-*"), result / "vmlinuz")
        with (result / "initramfs").open("wb") as out:
            archive = CpioWriter(out)
            _fill(archive, root)
            archive.close()
        for path in (result, *result.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        result.rename(folder)


def _fill(archive: CpioWriter, root: Path) -> None:
    for name in _FOLDERS:
        archive.directory(name)
    archive.character_device("dev/console", 5, 1)
    archive.symlink("etc/mtab", "/proc/self/mounts")
    _add_busybox(archive, root)
    _add_agent(archive, root)
    order = modules_in_load_order(_one(root, "lib/modules/*"))
    for path in order:
        archive.file(f"lab/modules/{path.name}", path.read_bytes())
    archive.file("lab/modules/order", "".join(f"{path.name}\n" for path in order).encode())
    for path in sorted(_FILES.iterdir()):
        archive.file(f"lab/{path.name}", path.read_bytes(), executable=True)
    archive.symlink("init", "lab/init")
    for name in ("shutdown", "poweroff", "halt", "reboot"):
        archive.symlink(f"sbin/{name}", "/lab/shutdown")


def _add_busybox(archive: CpioWriter, root: Path) -> None:
    busybox = _one(root, "bin/busybox")
    archive.file("bin/busybox", busybox.read_bytes(), executable=True)
    replaced = {"busybox", "shutdown", "poweroff", "halt", "reboot", "init"}
    for applet in run([busybox, "--list"]).stdout.split():
        if applet not in replaced:
            archive.symlink(f"bin/{applet}", "busybox")


def _add_agent(archive: CpioWriter, root: Path) -> None:
    """qemu-ga and the libraries that the package's own loader finds for it, so that the host's play no part."""
    agent = _one(root, "usr/sbin/qemu-ga")
    archive.file("usr/sbin/qemu-ga", agent.read_bytes(), executable=True)
    loader = _one(root, "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    archive.file("lib64/ld-linux-x86-64.so.2", loader.read_bytes(), executable=True)
    search = f"{root}/lib/x86_64-linux-gnu:{root}/usr/lib/x86_64-linux-gnu"
    listing = run([loader, "--inhibit-cache", "--library-path", search, "--list", agent]).stdout
    for line in listing.splitlines():
        name, arrow, rest = line.strip().partition(" => ")
        if arrow and not name.startswith("/"):
            path = Path(rest.rpartition(" (")[0])
            if not path.is_relative_to(root):
                raise LabError(f"the packages hold no {name}, which qemu-ga needs")
            archive.file(f"lib/{name}", path.read_bytes(), executable=True)


def _one(root: Path, *patterns: str) -> Path:
    for pattern in patterns:
        found = sorted(root.glob(pattern))
        if found:
            return found[-1]
    raise LabError(f"the packages hold no {patterns[0]}")
