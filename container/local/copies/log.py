"""What a copy printed: a file of bounded size, and the last line at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from headway.server.say import one_line
from headway.server.words import cut

MAX_BYTES = 8 * 1024 * 1024
_MAX_LINE = 64 * 1024


class CopyLog:
    """Written by one thread at a time. At ``max_bytes`` the file moves to NAME.1, over the one before, and begins anew.

    ``echo`` gets each whole line, safe to be printed; of one that was written over with carriage returns, what was seen last. Where the
    file can't be written, as on a full disk, the copy goes on without: ``echo`` is told so once.
    """

    def __init__(self, path: Path, echo: Callable[[str], None] | None = None, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self._size = 0
        self._echo = echo
        self._max_bytes = max_bytes
        self._rest = b""
        self._last_line = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = self._opened()
        except OSError as problem:
            self._give_up(problem)

    def write(self, data: bytes) -> None:
        self._keep(data)
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-_MAX_LINE:]
        for line in lines:
            self._take(line)

    def last_line(self) -> str:
        """The last line with anything in it, cut to what a FailureReason holds; empty if nothing was printed."""
        return cut(_seen(self._rest) or self._last_line, 600)

    def close(self) -> None:
        if self._rest:
            self._take(self._rest)
            self._rest = b""
        if self._file is not None:
            self._file.close()

    def _keep(self, data: bytes) -> None:
        if self._file is None:
            return
        try:
            if self._size + len(data) > self._max_bytes:
                self._file.close()
                self.path.replace(self.path.with_name(self.path.name + ".1"))
                self._file = self._opened()
                self._size = 0
            self._file.write(data)
            self._size += len(data)
        except OSError as problem:
            self._file.close()
            self._file = None
            self._give_up(problem)

    def _opened(self) -> BinaryIO:
        return self.path.open("ab", buffering=0)

    def _give_up(self, problem: OSError) -> None:
        if self._echo:
            self._echo(f"its log is kept no further: {problem.strerror or problem} ({self.path})")

    def _take(self, line: bytes) -> None:
        if text := _seen(line):
            self._last_line = text
            if self._echo:
                self._echo(text)


def _seen(line: bytes) -> str:
    """What a terminal would show of it in the end: a progress bar goes back to the start of its line again and again."""
    return one_line(line.rstrip(b"\r\n ").rpartition(b"\r")[2].decode(errors="replace"))
