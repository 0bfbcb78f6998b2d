"""An engine over two ranks, the second a process of its own, gives what one device gives; and ends with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_driver import add_adapter, make_engine, request, run
from outputs_alike import LONG, assert_alike, assert_alike_in_every_option, assert_alike_on_too_small_a_cache
from polling import wait_until
from process_tree import is_running
from tiny_adapters import EVERYTHING, make_adapter
from tiny_models import make_tiny_model
from tiny_tokenizers import byte_level_backend

from headway.server.engine.core import EngineCore
from headway.server.errors import AdapterError, ConfigError, ModelSourceError, RankDied
from headway.server.loading.model_config import read_config
from headway.server.source.files import ModelFiles
from headway.server.text.tokenizer import Tokenizer
from headway.server.types import AdapterRef, GenerateRequest


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return make_tiny_model("llama", tmp_path_factory.mktemp("model"), vocab_size=264)


def engine_of(files: ModelFiles, num_ranks: int, **topics: Any) -> EngineCore:
    topics = {
        "model": {"max_model_len": 256, "seed": 5, **topics.pop("model", {})},
        "scheduler": {"max_num_batched_tokens": 16, "max_num_seqs": 4, "async_scheduling": num_ranks > 1},
        "cache": {"block_size": 8, "num_gpu_blocks_override": 18},
        "lora": {"enable_lora": True, "max_loras": 1, "max_lora_rank": 8},
        "parallel": {"tensor_parallel_size": num_ranks},
        **topics,
    }
    return make_engine(files, load_tokenizer=lambda: Tokenizer(byte_level_backend(), special_tokens={}), **topics)


@pytest.fixture(scope="module")
def single(files: ModelFiles) -> EngineCore:
    return engine_of(files, 1)


@pytest.fixture(scope="module")
def ranked(files: ModelFiles) -> Iterator[EngineCore]:
    """Its steps overlap, too."""
    engine = engine_of(files, 2)
    yield engine
    engine.shutdown()
    assert not any(is_running(pid) for pid in pids_of(engine))


def pids_of(engine: EngineCore) -> list[int]:
    pids: list[int] = engine._executor._ranks.pids  # type: ignore[attr-defined]
    return pids


def test_greedy_requests_in_chunks_and_with_hits(single: EngineCore, ranked: EngineCore) -> None:
    assert_alike_on_too_small_a_cache(single, ranked)


def test_every_option_of_sampling(single: EngineCore, ranked: EngineCore) -> None:
    assert_alike_in_every_option(single, ranked)


def test_adapters_are_on_every_rank(single: EngineCore, ranked: EngineCore, files: ModelFiles, tmp_path: Path) -> None:
    config = read_config(files, {})
    path, other = make_adapter(tmp_path / "a", config, targets=EVERYTHING), make_adapter(tmp_path / "b", config, seed=1)
    plain = run(single, [request("plain", LONG)])["plain"].token_ids
    for engine in (single, ranked):
        with pytest.raises(AdapterError, match="adapter_config"):
            add_adapter(engine, AdapterRef(1, "missing", str(tmp_path)))
        add_adapter(engine, AdapterRef(2, "a", str(path)))
        add_adapter(engine, AdapterRef(3, "b", str(other)))  # takes the only place; both are read again and again
    sampling = request("", [1]).sampling
    adapted = [GenerateRequest(f"adapted {i}", LONG, sampling, 0.0, adapter_id=2 + i % 2) for i in range(4)]
    found = assert_alike(single, ranked, [*adapted, request("plain", LONG)])
    assert found["plain"].token_ids == plain
    assert len({tuple(output.token_ids) for output in found.values()}) == 3
    for engine in (single, ranked):
        engine.remove_adapter(2)
        engine.remove_adapter(3)


@pytest.mark.parametrize("level", [1, 2])
def test_all_ranks_sleep_and_wake(single: EngineCore, ranked: EngineCore, level: int) -> None:
    problems: list[Exception | None] = []
    ranked.sleep(level, "abort", problems.append)
    ranked.settle()
    assert problems == [None]
    assert ranked.sleep_state.is_asleep
    ranked.wake_up(None)
    assert_alike(single, ranked, [request(f"after {level}", LONG)])


def test_what_is_told_of_it(single: EngineCore, ranked: EngineCore) -> None:
    assert ranked.info.device.startswith("cpu (")  # API processes look for that, to give way to an engine on the same cores
    assert ranked.info.device.endswith(") as the first of 2 ranks")
    assert ranked.info.num_blocks == single.info.num_blocks
    assert ranked.info.kv_cache_bytes == single.info.kv_cache_bytes // 2  # of a rank
    ranked.settle()


def test_a_rank_that_is_killed_ends_the_engine_with_its_cause(files: ModelFiles) -> None:
    """In the middle of an answer: neither what waits for it, nor whoever asks later, hears anything else."""
    engine = engine_of(files, 2)
    (pid,) = pids_of(engine)
    engine.add_request(request("open", LONG, max_tokens=200, ignore_eos=True))
    for _ in range(6):
        engine.step()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RankDied, match=r"^rank 1 was killed \(SIGKILL\)"):
        _step_until_it_breaks(engine)
    with pytest.raises(RankDied, match=r"^rank 1 was killed \(SIGKILL\)"):
        engine.settle()
    engine.shutdown()
    assert not is_running(pid)


def test_a_rank_that_ends_while_nothing_runs_is_noticed(files: ModelFiles) -> None:
    engine = engine_of(files, 2)
    (pid,) = pids_of(engine)
    os.kill(pid, signal.SIGTERM)  # which it leaves to the engine
    os.kill(pid, signal.SIGKILL)

    def is_noticed() -> bool:
        try:
            engine.settle()
        except RankDied:
            return True
        return False

    wait_until(is_noticed)
    engine.shutdown()


def test_experts_that_are_on_one_rank_each(tmp_path: Path) -> None:
    """In a process of its own each."""
    mixture = make_tiny_model("qwen3-moe", tmp_path, vocab_size=264)
    shared = engine_of(mixture, 2, parallel={"tensor_parallel_size": 2, "enable_expert_parallel": True})
    requests = [request(f"r{i}", [*LONG, *range(i, 3 * i)], max_tokens=24 + i) for i in range(4)]
    assert_alike(engine_of(mixture, 1), shared, requests, stagger=3)
    shared.shutdown()


def test_one_rank_as_a_backend(single: EngineCore, files: ModelFiles) -> None:
    alone = engine_of(files, 1, parallel={"distributed_executor_backend": "mp"})
    assert_alike(single, alone, [request("alone", LONG)])
    alone.shutdown()


@pytest.mark.parametrize(
    ("num_ranks", "topics", "told"),
    [
        (3, {}, "the nearest that works is 4$"),
        (64, {}, "4 attention heads, 2 key-value heads and a feed-forward layer of 96, which 64 devices can't share; .* works is 4$"),
        (2, {"pooling": {"runner": "pooling"}, "lora": {}}, "is for models that generate text"),
        (1, {"parallel": {"enable_expert_parallel": True}}, "--enable-expert-parallel is for mixtures of experts"),
    ],
)
def test_what_can_not_be_split_is_refused(files: ModelFiles, num_ranks: int, topics: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        engine_of(files, num_ranks, **topics)


def test_a_model_that_a_rank_can_not_read_is_told_as_it_is(tmp_path: Path) -> None:
    files = make_tiny_model("llama", tmp_path)
    for weights in tmp_path.glob("*.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-64])
    with pytest.raises(ModelSourceError):
        engine_of(files, 2)


def _step_until_it_breaks(engine: EngineCore) -> None:
    for _ in range(200):
        engine.step()
