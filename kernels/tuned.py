"""Tile sizes that were measured on a chip. Where a chip has no table, launchers take their own estimate.

A table is ``tables/<chip>.json``: operation -> sizes as "4096x14336" -> a count -> the fields of Tiles or DecodeTiles.
A product's sizes are N, K and what else the operation names, its count that of its rows. The sizes of ``paged_attention`` are the query
heads of a key-value head, their width and the bytes of a key's element, its count rows times key-value heads.
An entry serves that count and less, down to the next one; more than the largest entry is estimated.
benchmarks/tune_kernels.py makes tables.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

TABLES = Path(__file__).parent / "tables"


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a product [M, K] x [K, N] is cut: a program makes block_m x block_n results from a part of K, block_k at a time."""

    block_m: int
    block_n: int
    block_k: int
    num_splits: int = 1  # programs that share the K of a tile
    num_warps: int = 4
    num_stages: int = 3


LIBRARY = Tiles(0, 0, 0)  # in a table: the device's own library is faster than our kernel


@dataclass(frozen=True, slots=True)
class DecodeTiles:
    """How decode attention is cut: a program reads ``block_n`` keys at a time of a part of a row's keys."""

    block_n: int
    min_split_tokens: int  # no part is shorter: the parts have to be merged
    # What rows are split for. On an H200 (2026-11) 3.9 a multiprocessor reached 96% of its copy bandwidth, 2.9 87% and 2.4 57%, over
    # other numbers of rows each.
    programs_per_multiprocessor: int = 4
    num_warps: int = 4
    num_stages: int = 2


_tried: ContextVar[Tiles | DecodeTiles | None] = ContextVar("tiles that are tried", default=None)


@contextmanager
def trying(tiles: Tiles | DecodeTiles) -> Iterator[None]:
    """Within it, in this thread, every look-up finds ``tiles``: for making tables."""
    token = _tried.set(tiles)
    try:
        yield
    finally:
        _tried.reset(token)


def tuned_tiles(operation: str, chip: str, sizes: tuple[int, ...], num_rows: int) -> Tiles | None:
    """The measured tiles for a weight of these sizes and ``num_rows`` rows of input; None if there are none."""
    tried = _tried.get()
    return tried if isinstance(tried, Tiles) else _tiles(operation, chip, sizes, num_rows)


def tuned_decode(chip: str, sizes: tuple[int, int, int], num_tiles: int) -> DecodeTiles | None:
    """The same for ``paged_attention``, of the sizes and the count that are told above."""
    tried = _tried.get()
    return tried if isinstance(tried, DecodeTiles) else _decode_tiles(chip, sizes, num_tiles)


def forget_tables() -> None:
    """They are read again from their files."""
    for cached in (_tiles, _decode_tiles, _table):
        cached.cache_clear()


@functools.lru_cache(maxsize=1 << 16)
def _tiles(operation: str, chip: str, sizes: tuple[int, ...], num_rows: int) -> Tiles | None:
    entry = _entry(operation, chip, sizes, num_rows)
    return Tiles(**entry) if entry else None


@functools.lru_cache(maxsize=1 << 16)
def _decode_tiles(chip: str, sizes: tuple[int, int, int], num_tiles: int) -> DecodeTiles | None:
    entry = _entry("paged_attention", chip, sizes, num_tiles)
    return DecodeTiles(**entry) if entry else None


def _entry(operation: str, chip: str, sizes: tuple[int, ...], count: int) -> dict[str, int] | None:
    entries = _table(chip).get(operation, {}).get("x".join(map(str, sizes)), {})
    limits = sorted(int(limit) for limit in entries if int(limit) >= count)
    return entries[str(limits[0])] if limits else None


@functools.cache
def _table(chip: str) -> dict[str, dict[str, dict[str, dict[str, int]]]]:
    path = TABLES / f"{chip}.json"
    table: dict[str, dict[str, dict[str, dict[str, int]]]] = json.loads(path.read_text()) if chip and path.exists() else {}
    return table
