"""How numbers, lists and long texts stand in sentences."""

from __future__ import annotations

from collections.abc import Sequence

GIB = 1024**3


def plural(count: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def first_few(names: Sequence[str], most: int = 5) -> str:
    """`a, b, c`, and dots behind ``most`` of them."""
    return ", ".join([*names[:most], *["..."] * (len(names) > most)])


def cut(text: str, length: int) -> str:
    """``text`` in no more than ``length`` characters, the last three dots where it is longer."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def amount(num_bytes: float) -> str:
    """Bytes of files and downloads, in powers of 1000: `12.3 GB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes:.0f} bytes"


def gib(num_bytes: int, digits: int = 1) -> str:
    """Bytes of memory, in powers of 1024: `12.3 GiB`."""
    return f"{num_bytes / GIB:.{digits}f} GiB"
