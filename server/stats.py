"""What engines tell of themselves beside types.EngineStats, as structs that travel with it."""

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
