"""Engines of several ranks whose caches are too small: each rank copies what it has of a block, and the tokens are those of one process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from engine_driver import Output, make_engine, request, run
from offloading_engines import counts, tokens
from process_tree import is_running
from tiny_models import make_tiny_model

from headway.server.engine.core import EngineCore
from headway.server.errors import RankDied
from headway.server.source.files import ModelFiles

BLOCK = 16
PROMPTS = [[(7 * index + position * position) % 250 for position in range(100 + index)] for index in range(6)]
LAYOUT = {"pipeline_parallel_size": 2, "prefill_context_parallel_size": 2, "cp_kv_cache_interleave_size": 4}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    """Of three layers: the first stage's ranks have twice the bytes of the last one's."""
    return make_tiny_model("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    """Rank 0 takes its share of them for good."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def engine_of(files: ModelFiles, path: Path | None) -> EngineCore:
    """Of 20 blocks of 16 tokens. With a path: of two stages of two ranks that have half of each block."""
    places = {"cpu_bytes_to_use": 10**7, "disk_path": str(path), "disk_bytes_to_use": 10**8}
    connector = {"kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_connector_extra_config": places}
    return make_engine(
        files,
        model={"max_model_len": 256},
        scheduler={"max_num_batched_tokens": 48, "max_num_seqs": 4},
        cache={"num_gpu_blocks_override": 20, "block_size": BLOCK if path is None else BLOCK // 2},
        parallel={} if path is None else LAYOUT,
        kv_transfer={} if path is None else {"kv_transfer_config": connector},
    )


def answers(core: EngineCore, word: str) -> list[Output]:
    """All at a time, so that steps are under way beside each other while blocks are copied out and back."""
    found = run(core, [request(f"{word} {index}", prompt, max_tokens=20) for index, prompt in enumerate(PROMPTS)], stagger=2)
    return [found[f"{word} {index}"] for index in range(len(PROMPTS))]


def pids_of(core: EngineCore) -> list[int]:
    pids: list[int] = core._executor._ranks.pids  # type: ignore[attr-defined]
    return pids


@pytest.fixture(scope="module")
def expected(files: ModelFiles) -> list[list[int]]:
    return tokens(answers(engine_of(files, None), "alone"))


def test_each_rank_copies_what_it_has_until_one_is_killed(files: ModelFiles, expected: list[list[int]], tmp_path: Path) -> None:
    """Out and back, to memory and files, as many bytes as its layers have. What is half done in the end no engine takes for a block; what
    is whole the next one finds."""
    core = engine_of(files, tmp_path)
    assert tokens(answers(core, "first")) == expected
    again = answers(core, "second")
    assert tokens(again) == expected
    assert counts(core).num_loaded_bytes > 0
    assert sum(output.num_cached_tokens for output in again) >= len(PROMPTS) * 96
    for index, prompt in enumerate(PROMPTS):
        core.add_request(request(f"open {index}", [index, *prompt], max_tokens=100))
    core.step()
    pids = pids_of(core)
    os.kill(pids[-1], signal.SIGKILL)
    with pytest.raises(RankDied, match=r"^rank 3 was killed \(SIGKILL\)"):
        run(core, [])
    core.shutdown()
    assert not any(is_running(pid) for pid in pids)
    sizes = [{path.stat().st_size for path in tmp_path.glob(f"*-rank-{rank}/*/*") if path.suffix != ".new"} for rank in range(4)]
    assert sizes[0] == sizes[1]
    assert sizes[2] == sizes[3]
    (last,), (first,) = sizes[0], sizes[2]
    assert 1.8 < first / last < 2.0  # two layers of three, and a header
    restarted = engine_of(files, tmp_path)
    found = answers(restarted, "third")
    assert tokens(found) == expected
    assert counts(restarted).num_loaded_bytes > 0
    assert counts(restarted).num_failed_loads == 0
    assert sum(output.num_cached_tokens for output in found) >= len(PROMPTS) * 80
    restarted.shutdown()
