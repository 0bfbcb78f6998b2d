"""What a rank keeps for others: offered and withdrawn by the engine, claimed and released from the side channel's thread."""

from __future__ import annotations

import hmac
from threading import Lock

from headway.server.engine.kv.transfer.orders import Offer


class Offers:
    """Thread-safe. An offer has one reader in its life. Each ``release`` and ``drop`` that finds one ends it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._offers: dict[str, Offer] = {}
        self._claimed: set[str] = set()

    def __len__(self) -> int:
        return len(self._offers)

    def add(self, offer: Offer) -> None:
        with self._lock:
            self._offers[offer.token] = offer

    def withdraw(self, token: str) -> None:
        """When this returns, no release of it will be told that it still held."""
        with self._lock:
            self._end(token)

    def has(self, token: str) -> bool:
        return token in self._offers

    def claim(self, token: str, digest: bytes) -> Offer | str:
        """Or why not, in a clause."""
        with self._lock:
            offer = self._offers.get(token)
            if offer is None:
                return "the prefill server does not keep it any more"
            if not hmac.compare_digest(offer.digest, digest):
                return "the prefill was of another prompt or cache_salt"
            if token in self._claimed:
                return "another request has it already"
            self._claimed.add(token)
            return offer

    def release(self, token: str) -> bool:
        """Whether it still held."""
        with self._lock:
            return self._end(token)

    def _end(self, token: str) -> bool:
        self._claimed.discard(token)
        return self._offers.pop(token, None) is not None
