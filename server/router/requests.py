"""A request as the router sends it on."""

from __future__ import annotations

from dataclasses import dataclass

from headway.server.api.paths import INFERENCE_PATHS
from headway.server.router.headers import Pairs

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class RoutedRequest:
    """``key``: what requests that begin alike have in common; ``started``: when it was read, by time.perf_counter()."""

    request_id: str
    method: str
    path: str
    target: str
    headers: Pairs
    sent_headers: list[tuple[str, str]]
    body: bytes
    key: bytes | None
    started: float

    @property
    def is_repeatable(self) -> bool:
        """Whether a server that has perhaps begun with it leaves nothing behind that a second one would double."""
        return self.method in _SAFE_METHODS or self.path in INFERENCE_PATHS
