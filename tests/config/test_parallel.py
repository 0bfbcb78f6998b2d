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


def test_devices_that_share_sequences() -> None:
    config = resolve(["demo", "-tp", "2", "-dcp", "2", "--dcp-kv-cache-interleave-size", "8"], {}).config
    assert (config.parallel.decode_context_parallel_size, config.parallel.cp_kv_cache_interleave_size) == (2, 8)


@pytest.mark.parametrize(
    ("backend", "told"),
    [
        ("ray", "Ray is not used, .*: use mp, with --tensor-parallel-size .* `headway router` before them \\(got 'ray'\\)$"),
        ("Ray", "Ray is not used, .* \\(got 'Ray'\\)$"),
        ("external_launcher", "the engine starts its ranks itself: use mp"),
        ("a.module.Executor", "expected one of mp, uni, got 'a.module.Executor'$"),
    ],
)
def test_what_of_vllm_is_not_there_is_told_with_what_to_use(backend: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"^--distributed-executor-backend: {told}"):
        resolve(["demo", "--distributed-executor-backend", backend], {})
    with pytest.raises(ConfigError, match=f"^environment SM_VLLM_DISTRIBUTED_EXECUTOR_BACKEND: {told}"):
        resolve(["demo"], {"SM_VLLM_DISTRIBUTED_EXECUTOR_BACKEND": backend})


def test_a_cluster_of_vllm_is_told_all_that_it_must_change() -> None:
    words = ["--tensor-parallel-size", "8", "--pipeline-parallel-size", "2", "--distributed-executor-backend", "ray"]
    with pytest.raises(ConfigError) as caught:
        resolve(["demo", *words], {})
    stages, ray = caught.value.problems
    assert stages.startswith("--pipeline-parallel-size: is an option of vLLM that is not supported by this version of Headway; ")
    assert ray.startswith("--distributed-executor-backend: Ray is not used")
