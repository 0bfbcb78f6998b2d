"""Bytes of a number of each type that models compute in or keep keys and values in."""

from __future__ import annotations

_ITEMSIZES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "int8": 1}


def itemsize(dtype: str) -> int:
    """Of a Plan's dtype."""
    return _ITEMSIZES[dtype]
