"""Sizes and rates in bytes, as people write and read them."""

import re

_FACTORS = {"": 1, "B": 1, "KIB": 1024, "K": 1024, "MIB": 1024**2, "M": 1024**2, "GIB": 1024**3, "G": 1024**3}
_FACTORS |= {"TIB": 1024**4, "T": 1024**4}


def parse_size(value: object) -> int:
    """Bytes from 1048576, "512 MiB" or "2G" (powers of 1024). Raises ValueError."""
    if type(value) is int:
        return value
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*([A-Za-z]*)\s*", str(value))
    if match is None or match[2].upper() not in _FACTORS:
        raise ValueError("must be a size such as 512MiB or 2GiB")
    return int(float(match[1]) * _FACTORS[match[2].upper()])


def show_size(size: float) -> str:
    """1610612736 as "1.5 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
