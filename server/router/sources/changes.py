"""What a list of servers that is asked for again and again has in common: only changes are told, and each trouble once."""

from __future__ import annotations

import logging
from collections.abc import Callable

from headway.server.words import plural

log = logging.getLogger(__name__)


class Changes:
    """Of one place. ``tell`` hears each other list."""

    def __init__(self, place: str, tell: Callable[[list[str]], object]) -> None:
        self._place = place
        self._tell = tell
        self._urls: list[str] | None = None
        self._trouble = ""

    def found(self, urls: list[str]) -> None:
        """It has answered, with these in an order of its own."""
        self._trouble = ""
        urls = sorted(set(urls))
        if urls != self._urls:
            self._urls = urls
            log.info("%s has %s now", self._place, plural(len(urls), "server"))
            self._tell(urls)

    def failed(self, trouble: str) -> None:
        """It has not: what was there before stays."""
        if trouble != self._trouble:
            self._trouble = trouble
            stay = "no server is known yet" if self._urls is None else f"{plural(len(self._urls), 'server')} of before stay"
            log.warning("%s: %s; %s", self._place, trouble, stay)
