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


def test_experts_move_between_ranks_that_hold_them_whole() -> None:
    asked = ["demo", "-ep", "-tp", "2", "--enable-eplb", "--eplb-config", '{"step_interval": 100, "log_balancedness": true}']
    parallel = resolve(asked, {}).config.parallel
    assert (parallel.num_redundant_experts, parallel.balancing.window_size, parallel.balancing.logged_steps) == (0, 1000, 100)
    assert resolve(["demo", "-ep", "-tp", "2"], {}).config.parallel.num_redundant_experts is None
    resolved = resolve(["demo"], {"SM_VLLM_EPLB_CONFIG": '{"window_size": 5}'})
    (warning,) = resolved.warnings
    assert warning.startswith("--eplb-config has no effect without --enable-eplb: experts stay where they are")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-tp", "2"], "--enable-eplb moves whole experts between ranks: add --enable-expert-parallel, or leave it out$"),
        (["-ep"], "--enable-eplb moves experts between the ranks of --tensor-parallel-size, which is 1: raise it"),
        (
            ["-ep", "-tp", "2", "--eplb-config", '{"window": 3}'],
            "--eplb-config: 'window' is none of its keys; did you mean window_size\\?",
        ),
        (["-ep", "-tp", "2", "--eplb-config", '{"window_size": 0}'], "--eplb-config: window_size: input should be greater than 0, got 0"),
        (["-ep", "-tp", "2", "--eplb-config", '{"use_async": false}'], "--eplb-config: use_async must be true, got False: experts move"),
    ],
)
def test_experts_that_can_not_move(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        resolve(["demo", "--enable-eplb", *words], {})


def test_devices_that_share_sequences() -> None:
    config = resolve(["demo", "-tp", "2", "-dcp", "2", "--dcp-kv-cache-interleave-size", "8"], {}).config
    assert (config.parallel.decode_context_parallel_size, config.parallel.cp_kv_cache_interleave_size) == (2, 8)


def test_devices_that_share_prompts() -> None:
    parallel = resolve(["demo", "-tp", "2", "-pcp", "3", "-pp", "2"], {}).config.parallel
    assert (parallel.num_ranks, parallel.stage_size, parallel.num_context_ranks) == (12, 6, 3)
    told = r"^--prefill-context-parallel-size 2 deals keys and values out over 2 devices, .*: leave --decode-context-parallel-size out, or"
    with pytest.raises(ConfigError, match=told):
        resolve(["demo", "-tp", "4", "-pcp", "2", "-dcp", "4"], {})
    assert resolve(["demo", "-pcp", "2", "-dcp", "2"], {}).config.parallel.num_context_ranks == 2


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
