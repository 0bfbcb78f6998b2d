"""The engine on a CUDA device: its tokens are those of the CPU, with graphs and without."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_driver import Output, add_adapter, make_engine, request, run
from msgspec.structs import replace
from tiny_adapters import EVERYTHING, make_adapter
from tiny_models import make_tiny_model

from headway.server.engine.core import EngineCore
from headway.server.loading.model_config import read_config
from headway.server.source.files import ModelFiles
from headway.server.types import AdapterRef, GenerateRequest

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

SIZES = ["1", "2", "4"]
PROMPTS = [random.Random(i).choices(range(3, 259), k=n) for i, n in enumerate((5, 90, 1, 14, 21, 33))]
SHARE = 0.05  # of the device's memory, for the test of the memory plan


@pytest.fixture(scope="module", params=["llama", "mistral", "qwen3"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return make_tiny_model(request.param, Path(tmp_path_factory.mktemp("tiny")), seed=1)


@pytest.fixture(scope="module")
def on_cpu(files: ModelFiles) -> dict[str, list[int]]:
    return tokens(run(make(files, "cpu"), asks(), stagger=2))


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.cuda.CUDAGraph]]:
    """The graph of each replay."""
    replayed: list[torch.cuda.CUDAGraph] = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (replayed.append(graph), replay(graph))[1])
    yield replayed
    replayed.clear()  # a graph that is held keeps its memory


def make(files: ModelFiles, device: str, **topics: Any) -> EngineCore:
    topics = {"cache": {"num_gpu_blocks_override": 128, "block_size": 16}, "graphs": {"cudagraph_capture_sizes": SIZES}, **topics}
    return make_engine(files, model={"max_model_len": 256, "device": device}, **topics)


def asks() -> list[GenerateRequest]:
    return [request(f"r{i}", prompt, max_tokens=16, ignore_eos=True) for i, prompt in enumerate(PROMPTS)]


def tokens(outputs: dict[str, Output]) -> dict[str, list[int]]:
    return {name: output.token_ids for name, output in outputs.items()}


@pytest.mark.parametrize("overlaps", [False, True], ids=["", "overlapped"])
def test_graphs_give_the_tokens_of_the_cpu(
    files: ModelFiles, on_cpu: dict[str, list[int]], replays: list[torch.cuda.CUDAGraph], overlaps: bool
) -> None:
    """Up to six rows run, so that some steps are padded, some fit, some are larger than every graph, and some hold prompts too."""
    engine = make(files, "cuda", scheduler={"async_scheduling": overlaps})
    assert tokens(run(engine, asks(), stagger=2)) == on_cpu
    assert len(set(map(id, replays))) == len(SIZES)


def test_eager_steps_give_the_tokens_of_the_cpu(
    files: ModelFiles, on_cpu: dict[str, list[int]], replays: list[torch.cuda.CUDAGraph]
) -> None:
    assert tokens(run(make(files, "cuda", graphs={"enforce_eager": True}), asks(), stagger=2)) == on_cpu
    assert replays == []


def test_steps_with_adapters(files: ModelFiles, replays: list[torch.cuda.CUDAGraph], tmp_path: Path) -> None:
    adapter = AdapterRef(1, "a", str(make_adapter(tmp_path / "a", read_config(files), targets=EVERYTHING)))

    def answers(device: str) -> dict[str, list[int]]:
        engine = make(files, device, lora={"enable_lora": True})
        add_adapter(engine, adapter)
        requests = [replace(ask, adapter_id=1 if i % 2 else None) for i, ask in enumerate(asks())]
        return tokens(run(engine, requests, stagger=2))

    expected = answers("cpu")
    assert answers("cuda") == expected
    assert replays, "the first row runs alone, and has none"


@pytest.mark.parametrize("level", [1, 2])
def test_graphs_follow_weights_and_pages_after_a_sleep(
    files: ModelFiles, on_cpu: dict[str, list[int]], replays: list[torch.cuda.CUDAGraph], level: int
) -> None:
    engine = make(files, "cuda")
    run(engine, asks(), stagger=2)
    engine.sleep(level, "abort", lambda problem: None)
    engine.settle()
    elsewhere = torch.zeros(2**22, device="cuda")  # what comes back finds another place
    engine.wake_up(None)
    replays.clear()
    assert tokens(run(engine, asks(), stagger=2)) == on_cpu
    assert replays
    del elsewhere


@pytest.fixture
def _own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tests run side by side on the GPU, its memory in use is what torch holds in this process: others' comes and goes."""
    if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
        _, total = torch.cuda.mem_get_info()
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (total - torch.cuda.memory_reserved(device), total))


@pytest.mark.usefixtures("_own_memory")
def test_memory_is_as_planned(files: ModelFiles) -> None:
    gc.collect()  # engines of earlier tests
    torch.cuda.empty_cache()
    engine = make(files, "cuda", cache={"gpu_memory_utilization": SHARE, "block_size": 256})
    run(engine, asks())
    free, total = torch.cuda.mem_get_info()
    assert (total - free) / total <= SHARE + 0.002
    assert (total - free) / total >= SHARE - 0.02, "the cache takes what is left"
    engine.shutdown()
