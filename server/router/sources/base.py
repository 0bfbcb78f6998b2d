"""What a source of servers is: it knows which there are, and tells when others are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec


class Listing(msgspec.Struct, frozen=True, tag=True):
    """The servers there are. ``serving``: those that answer clients; ``prefill``: those that only prepare for them."""

    serving: list[str]
    prefill: list[str] = []


Tell = Callable[[Listing], object]


class Source(Protocol):
    """``listing``: what it knows now, which at the start may be nothing. Only ``run`` changes it."""

    @property
    def listing(self) -> Listing: ...

    async def run(self, tell: Tell) -> None:
        """Hands over each other listing, on this event loop. Never returns."""


class Addresses(Protocol):
    """A source of one kind of servers: the same with plain lists of them."""

    async def run(self, tell: Callable[[list[str]], object]) -> None: ...
