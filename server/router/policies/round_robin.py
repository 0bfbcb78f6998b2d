"""In turn, whatever the servers have to do."""

from __future__ import annotations

from collections.abc import Sequence

from headway.server.router.servers import Server


class RoundRobin:
    """See Policy. Each is the one that was chosen longest ago, so that a server which comes or goes changes nobody else's turn."""

    def __init__(self) -> None:
        self._turn = 0
        self._last_turns: dict[str, int] = {}

    def update(self, urls: Sequence[str]) -> None:
        self._last_turns = {url: self._last_turns.get(url, 0) for url in urls}

    def choose(self, candidates: tuple[Server, ...], key: bytes | None, now: float) -> Server:
        chosen = min(candidates, key=lambda server: self._last_turns.get(server.url, 0))
        self._turn += 1
        self._last_turns[chosen.url] = self._turn
        return chosen
