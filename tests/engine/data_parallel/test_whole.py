"""What several engines are as one."""

from __future__ import annotations

import msgspec
import pytest
from fake_engine import fake_info

from headway.server.engine.data_parallel.whole import joint_info, joint_sleep_state, joint_stats
from headway.server.stats import OffloadStats, TransferStats
from headway.server.types import EngineStats, SleepState

AWAKE, FALLING, PAUSED = SleepState(), SleepState(1), SleepState(0, ("scheduling",))
ASLEEP, CACHE_LEFT = SleepState(1, ("weights", "kv_cache")), SleepState(1, ("kv_cache",))


def test_counts_add_up_and_usage_is_that_of_all_blocks() -> None:
    first = EngineStats(num_running=2, num_waiting=1, num_blocks_used=10, num_blocks_total=10, num_steps=5)
    second = EngineStats(num_running=1, num_blocks_total=30, prefix_cache_hits=7)
    whole = joint_stats([first, second])
    assert (whole.num_running, whole.num_waiting, whole.num_steps, whole.prefix_cache_hits) == (3, 1, 5, 7)
    assert whole.kv_cache_usage == 0.25
    assert joint_stats([first]) == first


def test_what_connectors_did_is_told_of_each_engine_alone() -> None:
    offload, transfer = TransferStats(num_fetched_tokens=20, offload=OffloadStats(memory_usage=0.5)), TransferStats(num_kept=1)
    assert joint_stats([EngineStats(num_running=1, transfers=offload), EngineStats(num_running=2, transfers=transfer)]) == EngineStats(
        num_running=3
    )


def test_what_holds_for_a_request_wherever_it_goes() -> None:
    first = msgspec.structs.replace(fake_info(9, max_model_len=256), device="cuda:0 H200", num_blocks=20, phases={"weights": 3.0})
    second = msgspec.structs.replace(first, device="cuda:1 H200", num_blocks=16, max_model_len=128, phases={"weights": 4.0})
    whole = joint_info([first, second])
    assert (whole.num_blocks, whole.max_model_len, whole.device) == (16, 128, "cuda:0 H200, cuda:1 H200")
    assert whole.phases == {"weights": 4.0}
    assert joint_info([first, first]) == first


@pytest.mark.parametrize(
    ("first", "second", "whole"),
    [
        (AWAKE, AWAKE, AWAKE),
        (ASLEEP, ASLEEP, ASLEEP),
        (PAUSED, PAUSED, PAUSED),
        (ASLEEP, FALLING, FALLING),  # open requests are still to end
        (ASLEEP, AWAKE, ASLEEP),
        (CACHE_LEFT, ASLEEP, ASLEEP),
        (CACHE_LEFT, CACHE_LEFT, CACHE_LEFT),
    ],
)
def test_the_sleep_of_two(first: SleepState, second: SleepState, whole: SleepState) -> None:
    assert joint_sleep_state([first, second]) == joint_sleep_state([second, first]) == whole
