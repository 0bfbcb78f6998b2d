"""Splits reasoning that stands between two marks at the beginning of an answer from the content behind it."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from headway.server.text.output import OutputParser, Parsed, joined
from headway.server.text.reasoning.families import Marks
from headway.server.text.reasoning.token_counter import TokenCounter
from headway.server.text.stop_strings import StopChecker

# No model writes more blanks before its first mark; what has more is content.
_MAX_LEADING = 32


class _State(enum.Enum):
    BEGINNING = enum.auto()  # a start mark may come
    REASONING = enum.auto()
    CONTENT = enum.auto()


class MarkedParser:
    """See OutputParser. ``inner`` reads what stands behind the reasoning. ``is_open``: the prompt has begun it already.

    The marks are told to nobody. Newlines around the reasoning, and before the content behind it, belong to the marks: models write
    them, and whoever shows the two apart wants none. Reasoning without an end mark goes to the end of the answer.
    """

    def __init__(self, marks: Marks, inner: OutputParser, counter: TokenCounter, *, is_open: bool) -> None:
        self._marks = marks
        self._inner = inner
        self._counter = counter
        self._is_open = is_open
        self._state = _State.BEGINNING
        self._held = ""  # the beginning, while it may become a start mark
        self._end = StopChecker(marks.end + marks.implied_ends)
        self._num_passed = 0  # characters of the answer that are certainly reasoning or marks
        self._num_newlines = 0  # of those held back, since they may turn out to be the reasoning's last
        self._skips_newlines = True  # the part that is read has had nothing but newlines

    def push(self, text: str, token_ids: Sequence[int]) -> Parsed:
        if self._state is _State.CONTENT:
            return self._read_content(text, token_ids)
        self._counter.push(token_ids)
        return self._begin(text) if self._state is _State.BEGINNING else self._reason(text)

    def finish(self) -> Parsed:
        if self._state is _State.BEGINNING and not self._is_open:
            return joined(self._inner.push(self._held, self._counter.rest()), self._inner.finish())
        if self._state is _State.CONTENT:
            return self._inner.finish()
        rest = self._held if self._state is _State.BEGINNING else self._end.finish()
        told = Parsed(reasoning=self._reasoning(rest), num_reasoning_tokens=len(self._counter.rest()))
        return joined(told, self._inner.finish())

    def _begin(self, text: str) -> Parsed:
        """Decides what the answer begins with, as soon as that can be told."""
        self._held += text
        stripped = self._held.lstrip()
        num_leading = len(self._held) - len(stripped)
        if num_leading <= _MAX_LEADING:
            mark = next((mark for mark in self._marks.start if stripped.startswith(mark)), None)
            if mark is not None:
                self._state = _State.REASONING
                self._num_passed = num_leading + len(mark)
                return self._reason(stripped[len(mark) :])
            if any(mark.startswith(stripped) for mark in self._marks.start):
                return Parsed()
        if self._is_open:
            self._state = _State.REASONING
            return self._reason(self._held)
        self._state, self._skips_newlines = _State.CONTENT, False
        return self._read_content(self._held, self._counter.rest())

    def _reason(self, text: str) -> Parsed:
        certain = self._end.push(text)
        self._num_passed += len(certain)
        reasoning = self._reasoning(certain)
        mark = self._end.stopped_by
        if mark is None:
            return Parsed(reasoning=reasoning, num_reasoning_tokens=self._counter.before(self._num_passed))
        self._state, self._skips_newlines = _State.CONTENT, True
        rest = self._end.behind
        if mark in self._marks.implied_ends:
            rest = mark + rest
        else:
            self._num_passed += len(mark)
        told = Parsed(reasoning=reasoning, num_reasoning_tokens=self._counter.before(self._num_passed))
        return joined(told, self._read_content(rest, self._counter.rest()))

    def _reasoning(self, text: str) -> str:
        """``text`` without the newlines at either end of the reasoning."""
        if self._skips_newlines:
            text = text.lstrip("\n")
            self._skips_newlines = not text
        kept = text.rstrip("\n")
        held, self._num_newlines = self._num_newlines, len(text) - len(kept)
        if kept:
            return "\n" * held + kept
        self._num_newlines += held
        return ""

    def _read_content(self, text: str, token_ids: Sequence[int]) -> Parsed:
        if self._skips_newlines:
            text = text.lstrip("\n")
            self._skips_newlines = not text
        return self._inner.push(text, token_ids)
