"""What all ranks of an engine agree on about their KV caches."""

from __future__ import annotations

import msgspec


class SharedCache(msgspec.Struct, frozen=True):
    """``num_blocks``: for which each rank has room. ``block_bytes``: of one block, in the pages of all ranks together; stages have
    different numbers of layers, and so of bytes."""

    num_blocks: int
    block_bytes: int
