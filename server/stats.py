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


class TransferDone(msgspec.Struct, frozen=True):
    """A fetch of a rank: its whole time in seconds, that of handing it over, its bytes, and pieces of memory."""

    transfer_s: float
    post_s: float
    num_bytes: int
    num_descriptors: int


class OffloadStats(msgspec.Struct, frozen=True, omit_defaults=True):
    """KV blocks that are copied out of the cache and come back, over all ranks; the totals only ever grow.

    ``num_missed_blocks`` went before their turn came. ``usage``: 0 to 1. ``loads`` and ``saves``: bytes of each, since the last time.
    """

    num_loaded_bytes: int = 0
    num_saved_bytes: int = 0
    load_s: float = 0.0
    save_s: float = 0.0
    num_missed_blocks: int = 0
    num_failed_loads: int = 0
    num_failed_saves: int = 0
    memory_usage: float = 0.0
    disk_usage: float = 0.0
    loads: tuple[int, ...] = ()
    saves: tuple[int, ...] = ()


class TransferStats(msgspec.Struct, frozen=True, omit_defaults=True):
    """KV that comes from elsewhere or goes there; the totals only ever grow. ``done``: since the last time."""

    num_fetching: int = 0
    num_arrived: int = 0  # requests whose KV is there, and that wait for room in a step
    num_kept: int = 0  # prompts that are kept for others
    num_queried_tokens: int = 0
    num_fetched_tokens: int = 0
    num_failed: int = 0
    num_expired: int = 0
    done: tuple[TransferDone, ...] = ()
    offload: OffloadStats | None = None
