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
    assert ParallelConfig(pipeline_parallel_size=2).has_ranks
    assert ParallelConfig(distributed_executor_backend="ray").has_ranks
    assert [ParallelConfig(distributed_executor_backend=backend).uses_ray for backend in ("ray", "mp", None)] == [True, False, False]
    assert not ParallelConfig(distributed_executor_backend="uni").has_ranks


def test_one_process_is_not_two_devices() -> None:
    assert parallel_problems(ParallelConfig(distributed_executor_backend="uni")) == []
    asked = ParallelConfig(tensor_parallel_size=2, distributed_executor_backend="uni")
    assert parallel_problems(asked) == ["--distributed-executor-backend uni is one process, and --tensor-parallel-size 2 takes 2: use mp"]
    (problem,) = parallel_problems(asked.model_copy(update={"pipeline_parallel_size": 3}))
    assert problem.endswith("and --tensor-parallel-size 2 with --pipeline-parallel-size 3 takes 6: use mp")


@pytest.mark.parametrize("words", [["-tp", "2", "-pp", "3"], ["--tensor-parallel-size=2", "--pipeline-parallel-size=3"]])
def test_an_engine_has_its_gpus_side_by_side(words: list[str]) -> None:
    parallel = resolve(["demo", *words], {}).config.parallel
    assert parallel.num_ranks == 6
    assert [parallel.gpu_index(engine, rank) for engine, rank in ((0, 0), (0, 5), (1, 0), (2, 3))] == [0, 5, 6, 15]


def test_stages_have_steps_of_other_requests_under_way() -> None:
    told = "--async-scheduling computes tokens before .*--pipeline-parallel-size 2 stages .*: leave it out; 2 steps are under way"
    with pytest.raises(ConfigError, match=told):
        resolve(["demo", "-pp", "2", "--async-scheduling"], {})
    resolve(["demo", "-pp", "2", "--no-async-scheduling"], {})


def test_experts_are_shared_by_ranks_and_not_by_engines() -> None:
    for words in (["-ep"], ["-ep", "-tp", "2"], ["-ep", "-tp", "2", "-dp", "2"]):
        assert resolve(["demo", *words], {}).config.parallel.enable_expert_parallel
    with pytest.raises(ConfigError, match=r"^--enable-expert-parallel with --data-parallel-size 2: experts .* add --tensor-parallel-size"):
        resolve(["demo", "-ep", "-dp", "2"], {})


@pytest.mark.parametrize(
    ("backend", "told"),
    [
        ("external_launcher", "the engine starts its ranks itself: use mp"),
        ("a.module.Executor", "expected one of mp, ray, uni, got 'a.module.Executor'$"),
    ],
)
def test_what_of_vllm_is_not_there_is_told_with_what_to_use(backend: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"^--distributed-executor-backend: {told}"):
        resolve(["demo", "--distributed-executor-backend", backend], {})
    with pytest.raises(ConfigError, match=f"^environment SM_VLLM_DISTRIBUTED_EXECUTOR_BACKEND: {told}"):
        resolve(["demo"], {"SM_VLLM_DISTRIBUTED_EXECUTOR_BACKEND": backend})


def test_a_ray_cluster_is_named_as_ray_and_vllm_do() -> None:
    words = ["demo", "--tensor-parallel-size", "8", "--distributed-executor-backend", "ray"]
    parallel = resolve(words, {"RAY_ADDRESS": "10.0.0.1:6379", "VLLM_HOST_IP": "10.0.0.2"}).config.parallel
    assert (parallel.uses_ray, parallel.num_ranks) == (True, 8)
    assert (parallel.ray_address, parallel.host_ip) == ("10.0.0.1:6379", "10.0.0.2")
    assert resolve([*words, "--ray-address", "local"], {"RAY_ADDRESS": "10.0.0.1:6379"}).config.parallel.ray_address == "local"
