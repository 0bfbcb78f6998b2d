"""What engines tell of themselves beside types.EngineStats and EngineInfo, as structs that travel with them."""

from __future__ import annotations

import msgspec


class AdapterStats(msgspec.Struct, frozen=True):
    """Ids of adapters."""

    loaded: tuple[int, ...] = ()  # on the device
    running: tuple[int, ...] = ()  # of requests that the scheduler has
    waiting: tuple[int, ...] = ()  # of requests that wait for theirs


class BalancingStats(msgspec.Struct, frozen=True, omit_defaults=True):
    """Experts that move between ranks; the totals only ever grow. ``balance``: the load of the window that experts were last placed for,
    an average rank's over the busiest one's, as they are placed now; 1 before that."""

    balance: float = 1.0
    num_placed_layers: int = 0
    num_moved_experts: int = 0


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


class DraftModelInfo(msgspec.Struct, frozen=True):
    """The model that drafts for the one that is served. Its memory is beside that one's."""

    name: str
    architecture: str
    weight_format: str
    weight_bytes: int
    kv_cache_bytes: int
