"""Looks at disk images with qemu-img, the reference for what they hold."""

import json
import re
from pathlib import Path

from lab.errors import ImagesDifferError, LabError
from lab.programs import run


def compare_images(a: Path, b: Path, *, strict: bool = False) -> None:
    """Raise ImagesDifferError, with the first offset (bytes) that differs, unless both hold the same data.

    Formats are probed and backing chains followed. Without `strict`, images of different sizes are the same when
    the longer one has only zeros behind the shorter one's end, and holes are zeros.
    """
    mode = ["-s"] if strict else []
    done = run(["qemu-img", "compare", "-U", *mode, a, b], check=False, timeout=1800)
    if done.status == 0:
        return
    said = (done.stdout + done.stderr).strip()
    if done.status == 1:
        match = re.search(r"offset (\d+)", said)
        raise ImagesDifferError(f"{a} and {b}: {said}", int(match.group(1)) if match else None)
    raise LabError(f"qemu-img compare of {a} and {b} failed: {said}")


def virtual_size(image: Path) -> int:
    """The size in bytes that a guest sees, also of an image that is in use."""
    size = json.loads(run(["qemu-img", "info", "-U", "--output=json", image]).stdout)["virtual-size"]
    assert isinstance(size, int)
    return size
