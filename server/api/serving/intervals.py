"""Pieces of a stream held together until they have --stream-interval tokens."""

from __future__ import annotations

from headway.server.api.serving.choices import ChoiceDelta


class Intervals:
    """The first piece of a choice goes out at once, so that the time to the first token stays what it is; the last one, too."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._held: dict[int, ChoiceDelta] = {}
        self._begun: set[int] = set()

    def due(self, batch: list[ChoiceDelta]) -> list[ChoiceDelta]:
        """What of ``batch``, and of what was held before, goes out now."""
        if self._num_tokens == 1:
            return batch
        return [delta for delta in map(self._joined, batch) if self._is_due(delta)]

    def _joined(self, delta: ChoiceDelta) -> ChoiceDelta:
        if (held := self._held.pop(delta.index, None)) is None:
            return delta
        held.extend(delta)
        return held

    def _is_due(self, delta: ChoiceDelta) -> bool:
        if delta.finish_reason is not None or delta.index not in self._begun or len(delta.token_ids) >= self._num_tokens:
            self._begun.add(delta.index)
            return True
        self._held[delta.index] = delta
        return False
