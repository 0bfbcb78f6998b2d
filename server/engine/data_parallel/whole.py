"""Several engines, told as one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import msgspec

from headway.server.stats import DraftStats
from headway.server.types import EngineInfo, EngineStats, SleepPart, SleepState

_PARTS: tuple[SleepPart, ...] = ("weights", "kv_cache", "scheduling")


def joint_stats(engines: Sequence[EngineStats]) -> EngineStats:
    """Sums; the step is one of each engine."""
    own = ("transfers", "adapters", "balancing", "drafts")  # each engine's, but drafts, which have a sum of their own
    drafts = [stats.drafts for stats in engines if stats.drafts is not None]
    return EngineStats(
        **{field: sum(getattr(stats, field) for stats in engines) for field in EngineStats.__struct_fields__ if field not in own},
        drafts=reduce(DraftStats.plus, drafts) if drafts else None,
    )


def joint_info(engines: Sequence[EngineInfo]) -> EngineInfo:
    """What holds for a request whichever engine it goes to: caches may differ, by the memory that each one found."""
    smallest = min(engines, key=lambda info: info.num_blocks)
    joint: EngineInfo = msgspec.structs.replace(
        smallest,
        device=", ".join(dict.fromkeys(info.device for info in engines)),
        max_model_len=min(info.max_model_len for info in engines),
        phases={name: max(info.phases.get(name, 0.0) for info in engines) for name in smallest.phases},
    )
    return joint


def joint_sleep_state(engines: Sequence[SleepState]) -> SleepState:
    """Asleep as soon as one is: requests can't be sure of a place any more. Still falling asleep while one of those is."""
    levels = [state.level for state in engines if state.level is not None]
    if not levels:
        return SleepState()
    sleeping = [state for state in engines if state.level is not None]
    is_falling = any(not state.is_asleep for state in sleeping)
    parts = () if is_falling else tuple(part for part in _PARTS if any(part in state.parts for state in sleeping))
    return SleepState(max(levels), parts)
