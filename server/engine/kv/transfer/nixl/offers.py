"""What a rank keeps for others: offered and withdrawn by the engine, claimed and released from the side channel's thread."""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

from headway.server.engine.kv.transfer.nixl.layer_progress import LayerProgress
from headway.server.engine.kv.transfer.orders import Computing, MoreOffered, Offer


@dataclass(slots=True)
class _Chunk:
    """Blocks that a step computes, the prompt's from number ``first``. ``progress`` None: the step has not begun."""

    first: int
    block_ids: list[int]
    progress: LayerProgress | None = None

    @property
    def end(self) -> int:
        return self.first + len(self.block_ids)


@dataclass(slots=True)
class _Held:
    """``chunks``: under way behind ``block_ids``, in the order of the steps."""

    digest: bytes
    block_ids: list[int]
    is_whole: bool
    chunks: deque[_Chunk] = field(default_factory=deque)
    is_claimed: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """By a reader: all of the prompt's first ``num_blocks``, and ``num_layers`` of the ``num_begun`` behind them."""

    num_blocks: int
    num_begun: int = 0
    num_layers: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """What is ready behind what is known: of these blocks, in the prompt's order, the layers up to ``end_layer``. If some layers of a few
    were known, it is of just those. ``is_whole``: no blocks come behind them. ``is_computing``: their layers are on their way."""

    block_ids: list[int]
    is_whole: bool
    end_layer: int
    is_computing: bool = False

    @property
    def is_news(self) -> bool:
        return bool(self.block_ids) or self.is_whole


class Offers:
    """Thread-safe. An offer has one reader in its life. Each ``release`` and ``withdraw`` that finds one ends it."""

    def __init__(self, num_layers: int, make_progress: Callable[[], LayerProgress]) -> None:
        self._num_layers = num_layers
        self._make_progress = make_progress
        self._lock = Lock()
        self._offers: dict[str, _Held] = {}
        self._not_begun: list[_Chunk] = []

    def __len__(self) -> int:
        return len(self._offers)

    def add(self, offer: Offer) -> None:
        with self._lock:
            self._offers[offer.token] = _Held(offer.digest, offer.block_ids.copy(), offer.is_whole)

    def extend(self, more: MoreOffered) -> None:
        """An offer that has ended meanwhile stays so."""
        with self._lock:
            if (held := self._offers.get(more.token)) is not None:
                held.block_ids += more.block_ids
                held.is_whole = more.is_whole
                while held.chunks and held.chunks[0].end <= len(held.block_ids):
                    held.chunks.popleft()

    def compute(self, order: Computing) -> None:
        with self._lock:
            if (held := self._offers.get(order.token)) is not None:
                chunk = _Chunk(order.first, order.block_ids)
                held.chunks.append(chunk)
                self._not_begun.append(chunk)

    def begin_step(self) -> LayerProgress | None:
        """The step that computes what ``compute`` was told of since the last one; None: that is nothing."""
        if not self._not_begun:
            return None
        progress = self._make_progress()
        with self._lock:
            for chunk in self._not_begun:
                chunk.progress = progress
            self._not_begun.clear()
        return progress

    def withdraw(self, token: str) -> None:
        """When this returns, no release of it will be told that it still held."""
        with self._lock:
            self._offers.pop(token, None)

    def has(self, token: str) -> bool:
        return token in self._offers

    def claim(self, token: str, digest: bytes) -> str | None:
        """None: it is the caller's; or why not, in a clause."""
        with self._lock:
            held = self._offers.get(token)
            if held is None:
                return "the prefill server does not keep it any more"
            if not hmac.compare_digest(held.digest, digest):
                return "the prefill was of another prompt or cache_salt"
            if held.is_claimed:
                return "another request has it already"
            held.is_claimed = True
            return None

    def part(self, token: str, known: Known) -> Part | None:
        """None: it is not kept any more."""
        with self._lock:
            held = self._offers.get(token)
            return None if held is None else self._part(held, known)

    def _part(self, held: _Held, known: Known) -> Part:
        ready = held.block_ids[known.num_blocks :]
        if known.num_begun and len(ready) >= known.num_begun:
            return Part(ready[: known.num_begun], held.is_whole and len(ready) == known.num_begun, self._num_layers)
        if ready and not known.num_begun:
            return Part(ready, held.is_whole, self._num_layers)
        chunk = held.chunks[0] if held.chunks else None
        if chunk is None or chunk.progress is None or known.num_blocks < chunk.first:
            return Part([], held.is_whole, known.num_layers)
        end_layer = chunk.progress.num_done
        if end_layer <= known.num_layers or end_layer >= self._num_layers:  # the last layer is told with the step's end
            return Part([], held.is_whole, known.num_layers, is_computing=end_layer < self._num_layers)
        behind = chunk.block_ids[known.num_blocks - chunk.first :]
        return Part(behind[: known.num_begun] if known.num_begun else behind, False, end_layer, is_computing=True)

    def release(self, token: str) -> bool:
        """Whether it still held."""
        with self._lock:
            return self._offers.pop(token, None) is not None
