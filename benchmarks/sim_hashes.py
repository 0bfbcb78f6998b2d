"""The hashes of a traced request's KV blocks. Beginnings come back thousands of times, and each is hashed once."""

from __future__ import annotations

from functools import lru_cache
from itertools import chain

from sim_trace import BLOCK_TOKENS, TracedRequest

from headway.server.engine.kv.prefix import block_hash, root_hash

# A request has about ten blocks of the trace, and those of system prompts are in use all the time.
_NUM_KEPT = 1 << 17
_ROOT = root_hash(None)


def hashes_of(request: TracedRequest, block_size: int) -> list[bytes]:
    """Those that the engine would compute for its first blocks; none where blocks are no even part of the trace's."""
    if BLOCK_TOKENS % block_size:
        return []
    known: list[tuple[bytes, ...]] = []
    parent = _ROOT
    for block in request.hash_ids[: request.input_length // BLOCK_TOKENS]:
        known.append(_hashes(parent, block, block_size))
        parent = known[-1][-1]
    return list(chain.from_iterable(known))


@lru_cache(maxsize=_NUM_KEPT)
def _hashes(parent: bytes, block: int, block_size: int) -> tuple[bytes, ...]:
    hashes = []
    for _ in range(BLOCK_TOKENS // block_size):
        parent = block_hash(parent, [block] * block_size)
        hashes.append(parent)
    return tuple(hashes)
