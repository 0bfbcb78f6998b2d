"""Takes the marks off that some models put around their answer proper, behind the reasoning."""

from __future__ import annotations

from collections.abc import Sequence

from headway.server.text.output import OutputParser, Parsed, joined
from headway.server.text.stop_strings import StopChecker


class AnswerMarksParser:
    """See OutputParser. An answer that does not begin with ``start`` is as it is; what stands behind ``end`` is nothing."""

    def __init__(self, start: str, end: str, inner: OutputParser) -> None:
        self._start = start
        self._inner = inner
        self._end = StopChecker([end])
        self._beginning: str | None = ""  # None: it is past

    def push(self, text: str, token_ids: Sequence[int]) -> Parsed:
        if self._beginning is not None:
            text = self._beginning + text
            if len(text) < len(self._start) and self._start.startswith(text):
                self._beginning = text
                return self._inner.push("", token_ids)
            self._beginning = None
            if text.startswith(self._start):
                text = text[len(self._start) :]
            else:
                self._end = StopChecker([])
        return self._inner.push(self._end.push(text), token_ids)

    def finish(self) -> Parsed:
        return joined(self._inner.push(self._beginning or self._end.finish(), ()), self._inner.finish())
