"""The list of servers in a file, which may change while the router runs."""

from __future__ import annotations

import asyncio
import logging
import re
from functools import partial
from pathlib import Path
from typing import Any

from headway.server.api.file_watch import keep_looking
from headway.server.errors import ConfigError
from headway.server.router.addresses import distinct, url_problem
from headway.server.router.sources.base import Listing, Tell
from headway.server.words import cut, plural

log = logging.getLogger(__name__)

_MAX_BYTES = 1024 * 1024
_IS_URL = re.compile(r"[a-z]+://", re.IGNORECASE)
_COMMENT = re.compile(r"(^|\s)#.*")


class ServerFile:
    """See Source. ``listing`` is what the file held when it could last be used. Raises ConfigError when made with one that can't be."""

    def __init__(self, path: str, is_paired: bool = False) -> None:
        """``is_paired``: it names the servers of each half."""
        self._path = path
        self._is_paired = is_paired
        self._complaint = ""
        try:
            self._listing = self._read()
        except _Unusable as problem:
            raise ConfigError([f"--servers-file {path}: {problem}"]) from None

    @property
    def listing(self) -> Listing:
        return self._listing

    async def run(self, tell: Tell) -> None:
        loop = asyncio.get_running_loop()
        await keep_looking(partial(self.look, lambda listing: loop.call_soon_threadsafe(tell, listing)))

    def look(self, tell: Tell) -> None:
        """Hands the servers over if they are others than before. A file that can't be used changes nothing, and the log says so once."""
        try:
            listing = self._read()
        except _Unusable as problem:
            if str(problem) != self._complaint:
                log.warning("--servers-file %s: %s; the servers before stay", self._path, problem)
            self._complaint = str(problem)
            return
        self._complaint = ""
        if listing != self._listing:
            self._listing = listing
            num = len(listing.serving) + len(listing.prefill)
            log.info("--servers-file %s has changed and names %s now", self._path, plural(num, "server"))
            tell(listing)

    def _read(self) -> Listing:
        try:
            with Path(self._path).expanduser().open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~nobody; ValueError: a NUL in the path
            raise _Unusable(f"can't be read: {getattr(error, 'strerror', None) or error}") from None
        if len(content) > _MAX_BYTES:
            raise _Unusable(f"is larger than {_MAX_BYTES // 1024**2} MiB")
        value = _value_in(content)
        return _halves(value) if self._is_paired else _one_list(value)


class _Unusable(Exception):
    """``str()`` says why."""


def _value_in(content: bytes) -> Any:
    """JSON, YAML or lines. Raises _Unusable."""
    import yaml

    try:
        text = content.decode("utf-8-sig")
        return _lines(text) or yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _Unusable(f"is neither JSON nor YAML nor lines of URLs: {cut(' '.join(str(error).split()), 200)}") from None


def _one_list(value: Any) -> Listing:
    """Of a list, or of an object with one as ``servers``."""
    if isinstance(value, dict):
        if "decode" in value or "prefill" in value:
            raise _Unusable("names prefill and decode servers, which are for --policy disaggregated")
        value = value.get("servers")
    return Listing(_urls(value, "names no server: write a list of URLs, or a URL a line, as http://10.0.0.7:8080"))


def _halves(value: Any) -> Listing:
    """Of an object with the lists ``prefill`` and ``decode``."""
    asked = "an object with the lists prefill and decode is needed for --policy disaggregated"
    if not isinstance(value, dict):
        raise _Unusable(f"names no halves: {asked}")
    serving, prefill = (_urls(value.get(half), f"names no {half} server: {asked}") for half in ("decode", "prefill"))
    if both := set(serving) & set(prefill):
        raise _Unusable(f"names {min(both)} as a prefill and as a decode server: leave it in one of the lists")
    return Listing(serving, prefill)


def _urls(value: Any, none_there: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(url, str) for url in value):
        raise _Unusable(none_there)
    if problem := next(filter(None, map(url_problem, value)), None):
        raise _Unusable(problem)
    return distinct(value)


def _lines(text: str) -> list[str]:
    """A URL a line, with comments; empty if the first line is none. YAML would take them for one text, and not with comments between."""
    bare = [_COMMENT.sub("", line).strip() for line in text.splitlines()]
    lines = [line for line in bare if line]
    return lines if lines and _IS_URL.match(lines[0]) else []
