"""Tile sizes of matrix products that were measured on a chip. Where a chip has no table, launchers take their own estimate.

A table is ``tables/<chip>.json``: operation -> "NxK" (and what else the operation names) -> number of rows -> the fields of Tiles.
An entry serves that number of rows and fewer, down to the next one; more rows than the largest entry are estimated.
"""

from __future__ import annotations

import functools
import json
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


@functools.lru_cache(maxsize=1 << 16)
def tuned_tiles(operation: str, chip: str, sizes: tuple[int, ...], num_rows: int) -> Tiles | None:
    """The measured tiles for a weight of these sizes and ``num_rows`` rows of input; None if there are none."""
    entries = _table(chip).get(operation, {}).get("x".join(map(str, sizes)), {})
    limits = sorted(int(limit) for limit in entries if int(limit) >= num_rows)
    return Tiles(**entries[str(limits[0])]) if limits else None


@functools.cache
def _table(chip: str) -> dict[str, dict[str, dict[str, dict[str, int]]]]:
    path = TABLES / f"{chip}.json"
    table: dict[str, dict[str, dict[str, dict[str, int]]]] = json.loads(path.read_text()) if chip and path.exists() else {}
    return table
