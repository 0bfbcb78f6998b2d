"""An engine whose ranks share sequences, or a step's tokens, gives the tokens of one device; and what it has room for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_driver import Output, add_adapter, make_engine, request, run
from outputs_alike import LONG, assert_alike, assert_alike_on_too_small_a_cache
from tiny_adapters import EVERYTHING, make_adapter
from tiny_models import make_tiny_model

from headway.server.engine.core import EngineCore
from headway.server.errors import ConfigError, RankDied
from headway.server.loading.model_config import read_config
from headway.server.source.files import ModelFiles
from headway.server.types import AdapterRef, GenerateRequest

CONTEXT = {"decode_context_parallel_size": 2}
PROMPTS = {"tensor_parallel_size": 1, "prefill_context_parallel_size": 2}
SEQUENCE = {"compilation_config": {"pass_config": {"enable_sp": True}}}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    """One key-value head, which two ranks both hold."""
    return make_tiny_model("llama", tmp_path_factory.mktemp("model"), num_key_value_heads=1)


def engine_of(files: ModelFiles, num_ranks: int, parallel: dict[str, Any], compilation: dict[str, Any], **topics: Any) -> EngineCore:
    topics = {
        "model": {"max_model_len": 256},
        "scheduler": {"max_num_batched_tokens": 15, "max_num_seqs": 4, "async_scheduling": num_ranks > 1},
        "cache": {"block_size": 8, "num_gpu_blocks_override": 18},
        "lora": {"enable_lora": True, "max_loras": 1, "max_lora_rank": 8},
        "parallel": {"tensor_parallel_size": num_ranks, **parallel},
        "compilation": compilation,
        **topics,
    }
    return make_engine(files, **topics)


@pytest.fixture(scope="module")
def single(files: ModelFiles) -> EngineCore:
    return engine_of(files, 1, {}, {})


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((CONTEXT, {}, {"block_size": 4, "num_gpu_blocks_override": 18}), id="context"),
        pytest.param((PROMPTS, {}, {"block_size": 4, "num_gpu_blocks_override": 18}), id="prompts"),
        pytest.param(({}, SEQUENCE, {"block_size": 8, "num_gpu_blocks_override": 18}), id="sequence"),
    ],
)
def ranked(request: pytest.FixtureRequest, files: ModelFiles) -> Iterator[EngineCore]:
    """Two ranks; its steps overlap, too."""
    parallel, compilation, cache = request.param
    engine = engine_of(files, 2, parallel, compilation, cache=cache)
    yield engine
    engine.shutdown()


def test_chunks_hits_and_preemptions(single: EngineCore, ranked: EngineCore) -> None:
    """In steps of an odd number of tokens."""
    assert_alike_on_too_small_a_cache(single, ranked)


def test_adapters_and_sampling(single: EngineCore, ranked: EngineCore, files: ModelFiles, tmp_path: Path) -> None:
    path = make_adapter(tmp_path / "a", read_config(files, {}), targets=EVERYTHING)
    for engine in (single, ranked):
        add_adapter(engine, AdapterRef(2, "a", str(path)))
    adapted = GenerateRequest("adapted", LONG, request("", [1]).sampling, 0.0, adapter_id=2)
    others = [request("drawn", LONG[:9], temperature=1.0, seed=3, logprobs=2), request("scored", LONG, prompt_logprobs=1)]
    assert_alike(single, ranked, [adapted, *others], stagger=1)
    for engine in (single, ranked):
        engine.remove_adapter(2)


def test_after_a_sleep(single: EngineCore, ranked: EngineCore) -> None:
    ranked.sleep(1, "abort", lambda problem: None)
    ranked.settle()
    ranked.wake_up(None)
    assert_alike(single, ranked, [request("after", LONG)])


def test_what_there_is_room_for(single: EngineCore, ranked: EngineCore) -> None:
    """As many tokens as on one device, and on each rank half of them where ranks share sequences."""
    assert ranked.info.block_size == 8
    assert ranked.info.num_blocks == single.info.num_blocks
    is_shared = ranked.info.kv_cache_bytes < single.info.kv_cache_bytes
    assert ranked.info.kv_cache_bytes == single.info.kv_cache_bytes // (2 if is_shared else 1)


def test_a_rank_that_is_killed_ends_the_engine_with_its_cause(ranked: EngineCore) -> None:
    """Whichever exchange the other waits in."""
    ranked.add_request(request("open", LONG, max_tokens=200, ignore_eos=True))
    for _ in range(6):
        ranked.step()
    (pid,) = ranked._executor._ranks.pids  # type: ignore[attr-defined]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RankDied, match=r"^rank 1 was killed \(SIGKILL\)"):
        run(ranked, [], outputs={"open": Output()})


def test_capped_scores_and_windows_where_ranks_share_sequences(tmp_path: Path) -> None:
    """Scores that reach the cap of 5: without it other tokens come out."""
    files = make_tiny_model("gemma2", tmp_path, num_key_value_heads=1)
    requests = [request(f"r{i}", [*LONG, *range(i, 3 * i)], max_tokens=24) for i in range(2)]
    ranked = engine_of(files, 2, CONTEXT, {}, cache={"block_size": 4, "num_gpu_blocks_override": 18})
    try:
        assert_alike(engine_of(files, 1, {}, {}), ranked, requests, stagger=3)
    finally:
        ranked.shutdown()


@pytest.mark.parametrize(("num_ranks", "num_stages", "compilation"), [(2, 1, SEQUENCE), (1, 2, {})], ids=["cut", "stages"])
def test_prompts_that_are_dealt_out_over_layers_that_are_shared(
    single: EngineCore, files: ModelFiles, num_ranks: int, num_stages: int, compilation: dict[str, Any]
) -> None:
    """Four ranks: two that cut the layers and their steps' tokens, or have some of the layers each, twice."""
    parallel = {"prefill_context_parallel_size": 2, "cp_kv_cache_interleave_size": 4, "pipeline_parallel_size": num_stages}
    topics: dict[str, Any] = {"cache": {"block_size": 4, "num_gpu_blocks_override": 18}}
    if num_stages > 1:
        topics["scheduler"] = {"max_num_batched_tokens": 15, "max_num_seqs": 4}
    ranked = engine_of(files, num_ranks, parallel, compilation, **topics)
    try:
        assert_alike_on_too_small_a_cache(single, ranked)
        assert_alike(single, ranked, [request("drawn", LONG[:9], temperature=1.0, seed=3, logprobs=2)])
    finally:
        ranked.shutdown()


@pytest.mark.parametrize(
    ("num_ranks", "parallel", "told"),
    [
        (4, {"decode_context_parallel_size": 3}, "with --tensor-parallel-size 4 .* on 4 devices; the nearest that works is 4$"),
        (2, {"decode_context_parallel_size": 2, "cp_kv_cache_interleave_size": 3}, "3 does not divide --block-size 8"),
    ],
)
def test_what_can_not_be_shared_is_refused(files: ModelFiles, num_ranks: int, parallel: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        engine_of(files, num_ranks, parallel, {})
