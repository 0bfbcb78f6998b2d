"""What several engines are as one."""

from __future__ import annotations

import msgspec
import pytest
from fake_engine import fake_info

from headway.server.engine.data_parallel.whole import joint_info, joint_sleep_state, joint_stats
from headway.server.types import EngineStats, SleepState, TransferDone, TransferStats

AWAKE, FALLING, PAUSED = SleepState(), SleepState(1), SleepState(0, ("scheduling",))
ASLEEP, CACHE_LEFT = SleepState(1, ("weights", "kv_cache")), SleepState(1, ("kv_cache",))


def test_counts_add_up_and_usage_is_that_of_all_blocks() -> None:
    first = EngineStats(num_running=2, num_waiting=1, num_blocks_used=10, num_blocks_total=10, num_steps=5)
    second = EngineStats(num_running=1, num_blocks_total=30, prefix_cache_hits=7)
    whole = joint_stats([first, second])
    assert (whole.num_running, whole.num_waiting, whole.num_steps, whole.prefix_cache_hits) == (3, 1, 5, 7)
    assert whole.kv_cache_usage == 0.25
    assert joint_stats([first]) == first


def test_transfers_add_up_where_there_are_any() -> None:
    done = [TransferDone(0.1, 0.01, num_bytes, 1) for num_bytes in (64, 128)]
    first = EngineStats(transfers=TransferStats(num_kept=1, num_fetched_tokens=20, done=(done[0],)))
    second = EngineStats(transfers=TransferStats(num_fetched_tokens=3, num_failed=2, done=(done[1],)))
    assert joint_stats([first, second]).transfers == TransferStats(num_kept=1, num_fetched_tokens=23, num_failed=2, done=tuple(done))
    assert joint_stats([first, EngineStats()]) == first
    assert joint_stats([EngineStats(), EngineStats()]).transfers is None


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
