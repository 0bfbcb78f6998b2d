"""What each engine has served recently, by the beginnings of the prompts: a guess at what is in its prefix cache."""

from __future__ import annotations

from collections.abc import Sequence

from cachetools import LRUCache

from headway.server.engine.kv.prefix import extend_hashes
from headway.server.types import GenerateRequest

BLOCK_TOKENS = 64
# Of a prompt: what two prompts of this length have in common decides where they go, whatever follows. Hashing it takes 0.1 ms (2026-11).
_MAX_BLOCKS = 64
# Of one engine: 13 MB at most (2026-11).
_MAX_REMEMBERED = 65536


def prefix_names(request: GenerateRequest) -> list[bytes]:
    """Of the full blocks at the beginning of its prompt: the same for requests that can share them, so adapter and salt count."""
    names: list[bytes] = []
    num_blocks = min(len(request.prompt_token_ids) // BLOCK_TOKENS, _MAX_BLOCKS)
    extend_hashes(names, num_blocks, request.prompt_token_ids, BLOCK_TOKENS, request.cache_salt, request.adapter_id)
    return names


class PrefixMemory:
    """As many blocks of each engine as its cache can hold, those that were last asked for."""

    def __init__(self, cache_tokens: Sequence[int]) -> None:
        """``cache_tokens``: how many tokens each engine's cache holds."""
        sizes = [min(num_tokens // BLOCK_TOKENS, _MAX_REMEMBERED) for num_tokens in cache_tokens]
        self._engines: list[LRUCache[bytes, None]] = [LRUCache(size) for size in sizes]

    def num_cached(self, names: Sequence[bytes]) -> list[int]:
        """Tokens, by engine, of the longest beginning that it has seen."""
        return [_num_known(names, known) * BLOCK_TOKENS for known in self._engines]

    def note(self, engine: int, names: Sequence[bytes]) -> None:
        """``engine`` gets a request with them. The first block is noted last, since without it the others are not found."""
        known = self._engines[engine]
        if known.maxsize:
            for name in reversed(names):
                known[name] = None

    def forget(self) -> None:
        for known in self._engines:
            known.clear()


def _num_known(names: Sequence[bytes], known: LRUCache[bytes, None]) -> int:
    for index, name in enumerate(names):
        if name not in known:
            return index
    return len(names)
