"""What can be asked of several devices."""

from __future__ import annotations

import pytest

from headway.server.config.parallel import ParallelConfig, parallel_problems
from headway.server.config.sources import resolve
from headway.server.errors import ConfigError


def test_processes_are_chosen_for_several_devices_or_when_asked_for() -> None:
    assert not ParallelConfig().has_ranks
    assert ParallelConfig(tensor_parallel_size=2).has_ranks
    assert ParallelConfig(distributed_executor_backend="mp").has_ranks
    assert not ParallelConfig(distributed_executor_backend="uni").has_ranks


def test_one_process_is_not_two_devices() -> None:
    assert parallel_problems(ParallelConfig(distributed_executor_backend="uni")) == []
    asked = ParallelConfig(tensor_parallel_size=2, distributed_executor_backend="uni")
    assert parallel_problems(asked) == ["--distributed-executor-backend uni is one process, and --tensor-parallel-size 2 takes 2: use mp"]


def test_what_hands_out_work_over_hosts_is_refused() -> None:
    with pytest.raises(ConfigError, match="--distributed-executor-backend: expected one of mp, uni, got 'ray'"):
        resolve(["demo", "--distributed-executor-backend", "ray"], {})
