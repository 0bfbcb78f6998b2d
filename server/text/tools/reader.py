"""Text that comes in pieces, read by generators that are written as if it were there whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")

# A reading: it yields where it needs more text, is resumed when there is more or none will come, and returns its result.
Steps = Generator[None, None, T]
Sink = Callable[[str], None]

_SPACE = re.compile(r"\s*")
# No format has these in a name, and most have some of them behind it.
_NAME = re.compile(r"""[^\s{}()\[\]<>"'`=|,;]*""")
_ANYTHING = re.compile(r"(?s:.*)")


class Broken(Exception):
    """The text goes on, or ends, otherwise than the format says. The character at fault is not taken."""


class Marks:
    """Texts that begin or end something. None may be the beginning of another."""

    def __init__(self, *texts: str) -> None:
        self.pattern = re.compile("|".join(map(re.escape, texts)))
        self._beginnings = {text[:end] for text in texts for end in range(1, len(text))}
        self._longest = max(map(len, self._beginnings), default=0)

    def first_possible(self, text: str, start: int) -> int:
        """Where in ``text``, from ``start`` on, a mark begins that may yet become whole; the length of ``text`` where none does."""
        for at in range(max(start, len(text) - self._longest), len(text)):
            if text[at:] in self._beginnings:
                return at
        return len(text)


class Reader:
    """The text of one answer that was not read so far.

    What is read is taken at once, so that the unread rest stays shorter than the longest mark whenever a reading yields:
    the work is linear in the text, however it is split.
    """

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._has_ended = False
        self._record: list[str] | None = None

    @property
    def num_unread(self) -> int:
        return len(self._text) - self._at

    @property
    def is_over(self) -> bool:
        return self._has_ended and not self.num_unread

    def feed(self, text: str) -> None:
        self._text = self._text[self._at :] + text
        self._at = 0

    def end(self) -> None:
        """No more will come."""
        self._has_ended = True

    def record(self) -> None:
        """Keeps what is taken from now on, in case that it has to become content; see ``recorded``."""
        self._record = []

    def recorded(self) -> str:
        """What was taken since ``record``, and the end of recording."""
        record, self._record = self._record, None
        return "".join(record or ())

    def forget(self) -> None:
        """Ends the recording: what was taken is part of a call."""
        self._record = None

    def take(self, num: int) -> str:
        taken = self._text[self._at : self._at + num]
        self._at += num
        if self._record is not None:
            self._record.append(taken)
        return taken

    def peek(self) -> Steps[str]:
        """The next character, not taken; empty at the end."""
        while not self.num_unread:
            if self._has_ended:
                return ""
            yield
        return self._text[self._at]

    def skips(self, mark: str) -> Steps[bool]:
        """Takes ``mark`` if the text goes on with it, and nothing otherwise."""
        while True:
            if self._text.startswith(mark, self._at):
                self.take(len(mark))
                return True
            if self._has_ended or not mark.startswith(self._text[self._at : self._at + len(mark)]):
                return False
            yield

    def next_mark(self, marks: Marks) -> Steps[str | None]:
        """The mark that the text goes on with, not taken; None where it goes on otherwise."""
        while True:
            found = marks.pattern.match(self._text, self._at)
            if found is not None:
                return found.group()
            if self._has_ended or marks.first_possible(self._text, self._at) > self._at:
                return None
            yield

    def expect(self, mark: str) -> Steps[None]:
        if not (yield from self.skips(mark)):
            raise Broken

    def read_run(self, characters: re.Pattern[str], sink: Sink) -> Steps[None]:
        """Takes characters as long as they match; ``characters`` matches any number of them, also none."""
        while (yield from self.peek()):
            match = characters.match(self._text, self._at)
            if match is not None and match.end() > self._at:
                sink(self.take(match.end() - self._at))
            if self.num_unread:
                return

    def skip_space(self) -> Steps[None]:
        yield from self.read_run(_SPACE, drop)

    def read_name(self) -> Steps[str]:
        """A function's name. Raises Broken where there is none."""
        name: list[str] = []
        yield from self.read_run(_NAME, name.append)
        if not name:
            raise Broken
        return "".join(name)

    def read_rest(self, sink: Sink) -> Steps[None]:
        yield from self.read_run(_ANYTHING, sink)

    def read_until(self, marks: Marks, sink: Sink) -> Steps[str | None]:
        """Takes what stands before the next mark; returns the mark, which is not taken, or None at the end."""
        while True:
            found = marks.pattern.search(self._text, self._at)
            if found is not None:
                sink(self.take(found.start() - self._at))
                return found.group()
            end = len(self._text) if self._has_ended else marks.first_possible(self._text, self._at)
            sink(self.take(end - self._at))
            if self._has_ended:
                return None
            yield


def drop(text: str) -> None:
    """A sink for what nobody needs."""
