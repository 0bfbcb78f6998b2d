"""An engine whose layers are cut into stages gives what one device gives, with a step for each stage under way; and ends with its ranks."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_driver import add_adapter, make_engine, request
from outputs_alike import LONG, assert_alike, assert_alike_in_every_option, assert_alike_on_too_small_a_cache
from process_tree import is_running
from tiny_adapters import EVERYTHING, make_adapter
from tiny_models import make_tiny_model
from tiny_tokenizers import byte_level_backend

from headway.server.engine.core import EngineCore
from headway.server.errors import AdapterError, ConfigError, RankDied
from headway.server.loading.model_config import read_config
from headway.server.source.files import ModelFiles
from headway.server.text.tokenizer import Tokenizer
from headway.server.types import AdapterRef, GenerateRequest


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    """Its embedding is its head: the two are on different stages."""
    return make_tiny_model("llama-tied", tmp_path_factory.mktemp("model"), vocab_size=264)


def engine_of(files: ModelFiles, num_stages: int, num_shares: int = 1, **topics: Any) -> EngineCore:
    topics = {
        "model": {"max_model_len": 256, "seed": 5, **topics.pop("model", {})},
        "scheduler": {"max_num_batched_tokens": 16, "max_num_seqs": 4},
        "cache": {"block_size": 8, "num_gpu_blocks_override": 18},
        "lora": {"enable_lora": True, "max_loras": 1, "max_lora_rank": 8},
        "parallel": {"tensor_parallel_size": num_shares, "pipeline_parallel_size": num_stages},
        **topics,
    }
    return make_engine(files, load_tokenizer=lambda: Tokenizer(byte_level_backend(), special_tokens={}), **topics)


@pytest.fixture(scope="module", params=[(2, 1), (2, 2)], ids=["2 stages", "2 stages of 2 ranks"])
def staged(files: ModelFiles, request: pytest.FixtureRequest) -> Iterator[EngineCore]:
    engine = engine_of(files, *request.param)
    yield engine
    engine.shutdown()
    assert not any(is_running(pid) for pid in pids_of(engine))


@pytest.fixture(scope="module")
def single(files: ModelFiles, staged: EngineCore) -> EngineCore:
    """One for each: requests without a seed of their own draw by how many came before."""
    return engine_of(files, 1)


def pids_of(engine: EngineCore) -> list[int]:
    pids: list[int] = engine._executor._ranks.pids  # type: ignore[attr-defined]
    return pids


def test_greedy_requests_in_chunks_and_with_hits(single: EngineCore, staged: EngineCore) -> None:
    assert_alike_on_too_small_a_cache(single, staged)


def test_every_option_of_sampling(single: EngineCore, staged: EngineCore) -> None:
    assert_alike_in_every_option(single, staged)


def test_adapters_are_on_every_stage(single: EngineCore, staged: EngineCore, files: ModelFiles, tmp_path: Path) -> None:
    """One is loaded behind steps that are under way, and reaches no stage before them."""
    config = read_config(files, {})
    path = make_adapter(tmp_path / "a", config, targets=EVERYTHING)
    adapted = GenerateRequest("adapted", LONG, request("", [1]).sampling, 0.0, adapter_id=2)
    for engine in (single, staged):
        with pytest.raises(AdapterError, match="adapter_config"):
            add_adapter(engine, AdapterRef(1, "missing", str(tmp_path)))
        add_adapter(engine, AdapterRef(2, "a", str(path)))
    assert_alike(single, staged, [adapted, request("plain", LONG)])
    staged.add_request(adapted)
    staged.step()
    staged.abort(["adapted"])
    for engine in (single, staged):
        engine.remove_adapter(2)
        add_adapter(engine, AdapterRef(3, "a", str(path)))
    while staged.has_work:
        staged.step()
    again = GenerateRequest("again", LONG, request("", [1]).sampling, 0.0, adapter_id=3)
    assert_alike(single, staged, [again])
    for engine in (single, staged):
        engine.remove_adapter(3)


def test_all_stages_sleep_and_wake(single: EngineCore, staged: EngineCore) -> None:
    problems: list[Exception | None] = []
    staged.sleep(2, "abort", problems.append)
    staged.settle()
    assert problems == [None]
    staged.wake_up(None)
    assert_alike(single, staged, [request("after", LONG)])


def test_each_stage_has_a_step_of_its_own(staged: EngineCore) -> None:
    """Requests are shared among them, and a request is in one at a time."""
    for i in range(4):
        staged.add_request(request(f"r{i}", [i + 1], max_tokens=12, ignore_eos=True))
    most, sizes = 0, set()
    while staged.has_work:
        staged.step()
        plans: list[Any] = [plan for plan, *_ in staged._under_way]
        under_way = [{row.request_id for row in plan.scheduled} for plan in plans]
        assert sum(map(len, under_way)) == len(set().union(*under_way))
        most = max(most, len(under_way))
        sizes |= {len(rows) for rows in under_way}
    assert most == 2 - 1  # beside the one whose result was taken in
    assert max(sizes - {4}) == 2  # all but the first step


def test_what_is_told_of_it(single: EngineCore, staged: EngineCore) -> None:
    num_ranks = len(pids_of(staged)) + 1
    assert staged.info.device.endswith(f") as the first of {num_ranks} ranks")
    assert staged.info.kv_cache_bytes == single.info.kv_cache_bytes // 3 // (num_ranks // 2)  # one layer of three, of a rank


def test_a_rank_that_is_killed_ends_the_engine_with_its_cause(files: ModelFiles) -> None:
    """One that this process exchanges nothing with, in the middle of answers."""
    engine = engine_of(files, 2, 2)
    for i in range(4):
        engine.add_request(request(f"open {i}", LONG[i:], max_tokens=200, ignore_eos=True))
    for _ in range(6):
        engine.step()
    os.kill(pids_of(engine)[2], signal.SIGKILL)
    with pytest.raises(RankDied, match=r"^rank 3 was killed \(SIGKILL\)"):
        _step_until_it_breaks(engine)
    engine.shutdown()
    assert not any(is_running(pid) for pid in pids_of(engine))


@pytest.mark.parametrize(
    ("num_stages", "topics", "told"),
    [
        (4, {}, "^--pipeline-parallel-size 4: this model has 3 layers, and each stage needs one; the nearest that works is 3$"),
        (2, {"pooling": {"runner": "pooling"}, "lora": {}}, "^--pipeline-parallel-size 2 is for models that generate text"),
    ],
)
def test_what_can_not_be_cut_is_refused(files: ModelFiles, num_stages: int, topics: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        engine_of(files, num_stages, **topics)


def _step_until_it_breaks(engine: EngineCore) -> None:
    for _ in range(400):
        engine.step()
