"""Finds stop strings in text that arrives in pieces, holding back only what may yet become one."""

from __future__ import annotations

from collections.abc import Sequence


class StopChecker:
    """One answer's stop strings. The result never depends on how the text was cut into pieces.

    The stop string that is complete first wins; of several that are complete with the same character, the longest.
    `behind`: the text behind it, of the piece that completed it.
    State: `_held` is text that was not let go because a stop string may begin in it, always shorter than the longest one.
    """

    def __init__(self, stop: Sequence[str], *, include_stop: bool = False) -> None:
        self._stop = [text for text in stop if text]
        self._include_stop = include_stop
        self._held = ""
        self._num_barred = 0  # characters at the start of _held in which no stop string may end
        self.stopped_by: str | None = None
        self.behind = ""

    def push(self, text: str, *, may_stop: bool = True) -> str:
        """The text that is now certain. Without `may_stop` no stop string may end in `text`, but one may begin in it.

        Nothing is certain any more once `stopped_by` is set.
        """
        if self.stopped_by is not None:
            return ""
        if not self._stop:
            return text
        self._held += text
        if not may_stop:
            self._num_barred = len(self._held)
        found = self._first()
        if found is not None:
            start, self.stopped_by = found
            end = start + len(self.stopped_by)
            certain, self.behind = self._held[: end if self._include_stop else start], self._held[end:]
            self._held = ""
            return certain
        keep = self._first_possible_start()
        certain, self._held = self._held[:keep], self._held[keep:]
        self._num_barred = max(self._num_barred - keep, 0)
        return certain

    def finish(self) -> str:
        """The rest of the text, once no more will come."""
        rest, self._held = self._held, ""
        return rest

    def _first(self) -> tuple[int, str] | None:
        """(start, stop string) of the one that is complete first."""
        best: tuple[int, int, str] | None = None  # end, start, stop string
        for stop in self._stop:
            # Must end after the barred part.
            start = self._held.find(stop, max(self._num_barred - len(stop) + 1, 0))
            if start >= 0:
                candidate = (start + len(stop), start, stop)
                best = candidate if best is None else min(best, candidate)
        return None if best is None else best[1:]

    def _first_possible_start(self) -> int:
        """Where the longest end of the held text begins that is the beginning of a stop string; its length where none is."""
        held = self._held
        first = len(held)
        for stop in self._stop:
            at = held.find(stop[0], max(len(held) - len(stop) + 1, 0), first)
            while at >= 0:
                if stop.startswith(held[at:]):
                    first = at
                    break
                at = held.find(stop[0], at + 1, first)
        return first
