"""The list of servers in a file, which may change while the router runs."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headway.server.errors import ConfigError
from headway.server.router.config import plain_url, url_problem
from headway.server.words import cut, plural

log = logging.getLogger(__name__)

_MAX_BYTES = 1024 * 1024
_IS_URL = re.compile(r"[a-z]+://", re.IGNORECASE)
_COMMENT = re.compile(r"(^|\s)#.*")


class ServerFile:
    """``urls`` is what the file held when it could last be used. Raises ConfigError when made with one that can't be."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._complaint = ""
        try:
            self.urls = self._read()
        except _Unusable as problem:
            raise ConfigError([f"--servers-file {path}: {problem}"]) from None

    def look(self, on_change: Callable[[list[str]], object]) -> None:
        """Hands the servers over if they are others than before. A file that can't be used changes nothing, and the log says so once."""
        try:
            urls = self._read()
        except _Unusable as problem:
            if str(problem) != self._complaint:
                log.warning("--servers-file %s: %s; the servers before stay", self._path, problem)
            self._complaint = str(problem)
            return
        self._complaint = ""
        if urls != self.urls:
            self.urls = urls
            log.info("--servers-file %s has changed and names %s now", self._path, plural(len(urls), "server"))
            on_change(urls)

    def _read(self) -> list[str]:
        try:
            with Path(self._path).expanduser().open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~nobody; ValueError: a NUL in the path
            raise _Unusable(f"can't be read: {getattr(error, 'strerror', None) or error}") from None
        if len(content) > _MAX_BYTES:
            raise _Unusable(f"is larger than {_MAX_BYTES // 1024**2} MiB")
        return urls_in(content)


class _Unusable(Exception):
    """``str()`` says why."""


def urls_in(content: bytes) -> list[str]:
    """Of a JSON or YAML list, of an object with one as ``servers``, or of lines. Raises _Unusable."""
    import yaml

    try:
        text = content.decode("utf-8-sig")
        value: Any = _lines(text) or yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _Unusable(f"is neither JSON nor YAML nor lines of URLs: {cut(' '.join(str(error).split()), 200)}") from None
    if isinstance(value, dict):
        value = value.get("servers")
    if not isinstance(value, list) or not value or not all(isinstance(url, str) for url in value):
        raise _Unusable("names no server: write a list of URLs, or a URL a line, as http://10.0.0.7:8080")
    if problems := [problem for problem in map(url_problem, value) if problem]:
        raise _Unusable(problems[0])
    return distinct(value)


def _lines(text: str) -> list[str]:
    """A URL a line, with comments; empty if the first line is none. YAML would take them for one text, and not with comments between."""
    bare = [_COMMENT.sub("", line).strip() for line in text.splitlines()]
    lines = [line for line in bare if line]
    return lines if lines and _IS_URL.match(lines[0]) else []


def distinct(urls: list[str]) -> list[str]:
    return list(dict.fromkeys(map(plain_url, urls)))
