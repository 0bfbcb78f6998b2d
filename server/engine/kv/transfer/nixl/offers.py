"""What a rank keeps for others: offered and withdrawn by the engine, claimed and released from the side channel's thread."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from threading import Lock

from headway.server.engine.kv.transfer.orders import MoreOffered, Offer


@dataclass(slots=True)
class _Held:
    digest: bytes
    block_ids: list[int]
    is_whole: bool
    is_claimed: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """Blocks that are ready, in the prompt's order; ``is_whole``: none come behind them."""

    block_ids: list[int]
    is_whole: bool


class Offers:
    """Thread-safe. An offer has one reader in its life. Each ``release`` and ``withdraw`` that finds one ends it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._offers: dict[str, _Held] = {}

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

    def part(self, token: str, num_known: int) -> Part | None:
        """What is ready behind the first ``num_known`` blocks; None: it is not kept any more."""
        with self._lock:
            held = self._offers.get(token)
            return None if held is None else Part(held.block_ids[num_known:], held.is_whole)

    def release(self, token: str) -> bool:
        """Whether it still held."""
        with self._lock:
            return self._offers.pop(token, None) is not None
