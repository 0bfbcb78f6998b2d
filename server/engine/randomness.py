"""One uniform number a request and output position, from counters and not from the order in which work happens.

numpy's Philox 4x64-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011) is keyed by the request's seed and
counts output positions: a vetted generator in which any position can be reached at once, so neither the batch, nor preemption,
nor chunking changes what a seeded request draws. Numbers are made 64 at a time, as building the generator costs microseconds.
"""

from __future__ import annotations

import secrets

import numpy as np

_BLOCK = 64  # a multiple of the four numbers that one Philox counter gives
_MASK64 = (1 << 64) - 1
_ENGINE_SHIFT = 48  # above the counter of an engine's requests


class UniformStream:
    """The uniforms of one request: ``at(position)`` in [0, 1), the same for the same key for ever."""

    def __init__(self, key: int) -> None:
        self._key = key
        self._block = -1
        self._values: list[float] = []

    def at(self, position: int) -> float:
        block, offset = divmod(position, _BLOCK)
        if block != self._block:
            generator = np.random.Philox(key=self._key, counter=block * (_BLOCK // 4))
            self._values = ((generator.random_raw(_BLOCK) >> np.uint64(11)) * 2.0**-53).tolist()
            self._block = block
        return self._values[offset]


class KeySource:
    """Gives each request its 128-bit key: the user's seed; else the server's seed and a counter; else the system's randomness."""

    def __init__(self, server_seed: int | None, engine: int = 0) -> None:
        """``engine``: its index. The engines of one server have one seed, and must not draw the same for the same prompt."""
        self._server_seed = server_seed
        self._num_unseeded = engine << _ENGINE_SHIFT

    def key(self, seed: int | None) -> int:
        if seed is not None:
            return seed & _MASK64  # the upper half 0 keeps users' seeds apart from all others
        self._num_unseeded += 1
        if self._server_seed is not None:
            return self._num_unseeded << 64 | (self._server_seed & _MASK64)
        return secrets.randbits(128) | 1 << 64
