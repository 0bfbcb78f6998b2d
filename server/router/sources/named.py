"""Servers that the command line names, or the places that know them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from headway.server.router.addresses import Directory, directory_of, distinct, is_directory
from headway.server.router.sources.base import Addresses, Listing, Tell


class Named:
    """See Source. ``serving`` and ``prefill`` are good addresses, or the one place each that knows them, which ``opened`` makes usable."""

    def __init__(self, serving: Sequence[str], prefill: Sequence[str], opened: Callable[[Directory], Addresses]) -> None:
        self._known: dict[str, list[str]] = {}
        self._places: dict[str, Addresses] = {}
        for role, addresses in (("serving", serving), ("prefill", prefill)):
            is_place = bool(addresses) and is_directory(addresses[0])
            self._known[role] = [] if is_place else distinct(list(addresses))
            if is_place:
                self._places[role] = opened(directory_of(addresses[0]))

    @property
    def listing(self) -> Listing:
        return Listing(**self._known)

    async def run(self, tell: Tell) -> None:
        async with asyncio.TaskGroup() as looking:
            for role, place in self._places.items():
                looking.create_task(place.run(partial(self._learn, tell, role)))
            await asyncio.Event().wait()

    def _learn(self, tell: Tell, role: str, urls: list[str]) -> None:
        self._known[role] = urls
        tell(self.listing)
