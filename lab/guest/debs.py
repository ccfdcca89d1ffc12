"""Fetches Debian packages and unpacks them beside the system, without installing them."""

from pathlib import Path

from lab.errors import LabError
from lab.programs import run

KERNEL = "linux-image-cloud-amd64"
AGENT = "qemu-guest-agent"
BUSYBOX = "busybox-static"

_DEPENDS_ONLY = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")]


def unpack_guest_packages(into: Path, download: Path) -> None:
    """Unpack the kernel, busybox, the guest agent and all libraries it depends on into the folder `into`.

    `download` is an empty folder for the .deb files. Raises LabError.
    """
    try:
        _download(download)
    except LabError:
        # Lists that are old name versions which the archive no longer has.
        run(["apt-get", "update"])
        _download(download)
    for package in sorted(download.glob("*.deb")):
        run(["dpkg-deb", "-x", package, into])


def _download(folder: Path) -> None:
    names = [BUSYBOX, _versioned_kernel(), *_with_dependencies(AGENT)]
    run(["apt-get", "-o", "APT::Sandbox::User=root", "download", *names], cwd=folder, timeout=900)


def _versioned_kernel() -> str:
    for line in run(["apt-cache", "depends", KERNEL]).stdout.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == "Depends:" and words[1].startswith("linux-image-"):
            return words[1]
    raise LabError(f"apt knows no kernel package behind {KERNEL}")


def _with_dependencies(package: str) -> list[str]:
    listing = run(["apt-cache", "depends", "--recurse", "--no-pre-depends", *_DEPENDS_ONLY, package]).stdout
    # Names stand at the start of a line, what they depend on is indented, virtual packages are in angle brackets.
    return [line for line in listing.splitlines() if line and line[0].isalnum()]
