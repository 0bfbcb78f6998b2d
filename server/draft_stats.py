"""What became of the tokens that an engine guessed."""

from __future__ import annotations

import msgspec


class DraftStats(msgspec.Struct, frozen=True):
    """Totals of speculative decoding."""

    num_drafts: int = 0  # times that a request had some in a step
    num_draft_tokens: int = 0
    num_accepted: tuple[int, ...] = ()  # tokens, by position behind the newest known one

    @property
    def num_accepted_tokens(self) -> int:
        return sum(self.num_accepted)

    def plus(self, other: DraftStats) -> DraftStats:
        """Of two engines with the same options."""
        accepted = tuple(map(sum, zip(self.num_accepted, other.num_accepted, strict=True)))
        return DraftStats(self.num_drafts + other.num_drafts, self.num_draft_tokens + other.num_draft_tokens, accepted)
