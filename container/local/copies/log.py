"""What a copy printed: a file of bounded size, and the last line at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from headway.server.say import one_line
from headway.server.words import cut

MAX_BYTES = 8 * 1024 * 1024
_MAX_LINE = 64 * 1024


class CopyLog:
    """Written by one thread at a time. At ``max_bytes`` the file moves to NAME.1, over the one before, and begins anew.

    ``echo`` gets each whole line, safe to be printed.
    """

    def __init__(self, path: Path, echo: Callable[[str], None] | None = None, max_bytes: int = MAX_BYTES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = path
        self._file = path.open("ab", buffering=0)
        self._size = 0
        self._echo = echo
        self._max_bytes = max_bytes
        self._rest = b""
        self._last_line = ""

    def write(self, data: bytes) -> None:
        if self._size + len(data) > self._max_bytes:
            self._begin_anew()
        self._file.write(data)
        self._size += len(data)
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-_MAX_LINE:]
        for line in lines:
            self._take(line)

    def last_line(self) -> str:
        """The last line with anything in it, cut to what a FailureReason holds; empty if nothing was printed."""
        return cut(one_line(self._rest.decode(errors="replace")) or self._last_line, 600)

    def close(self) -> None:
        if self._rest:
            self._take(self._rest)
            self._rest = b""
        self._file.close()

    def _take(self, line: bytes) -> None:
        if text := one_line(line.decode(errors="replace")):
            self._last_line = text
            if self._echo:
                self._echo(text)

    def _begin_anew(self) -> None:
        self._file.close()
        self.path.replace(self.path.with_name(self.path.name + ".1"))
        self._file = self.path.open("ab", buffering=0)
        self._size = 0
