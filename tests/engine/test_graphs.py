"""Decode steps that are padded and replayed give the tokens that eager ones give, whatever comes, goes, sleeps or has an adapter."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_driver import Output, add_adapter, make_engine, request, run
from msgspec.structs import replace
from plain_recorder import PlainRecorder, use_plain_graphs
from tiny_adapters import make_adapter
from tiny_models import make_tiny_model

from headway.server.engine.core import EngineCore
from headway.server.engine.graphs import DecodeGraphs
from headway.server.engine.input_buffers import InputBuffers
from headway.server.loading.model_config import read_config
from headway.server.source.files import ModelFiles
from headway.server.types import AdapterRef, GenerateRequest

SIZES = (1, 2, 4)
PROMPTS = [random.Random(i).choices(range(3, 259), k=n) for i, n in enumerate((5, 30, 1, 14, 21, 3))]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return make_tiny_model("mistral", Path(tmp_path_factory.mktemp("tiny")), seed=1)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> PlainRecorder:
    return use_plain_graphs(monkeypatch, SIZES)


def make(files: ModelFiles, **topics: Any) -> EngineCore:
    cache = {"num_gpu_blocks_override": 64, "block_size": 4}
    return make_engine(files, model={"max_model_len": 64}, cache=cache, **topics)


def asks(**sampling: Any) -> list[GenerateRequest]:
    return [request(f"r{i}", prompt, **{"max_tokens": 12, "ignore_eos": True, **sampling}) for i, prompt in enumerate(PROMPTS)]


def tokens(outputs: dict[str, Output]) -> dict[str, list[int]]:
    return {name: output.token_ids for name, output in outputs.items()}


@pytest.fixture(scope="module")
def eager(files: ModelFiles) -> dict[str, Output]:
    return run(make(files), asks(logprobs=2, prompt_logprobs=1), stagger=2)


@pytest.mark.parametrize("overlaps", [False, True])
def test_same_tokens_and_scores_as_eager(files: ModelFiles, eager: dict[str, Output], recorder: PlainRecorder, overlaps: bool) -> None:
    """Up to six rows run, so that some steps are padded, some fit, and some are larger than every graph."""
    outputs = run(make(files, scheduler={"async_scheduling": overlaps}), asks(logprobs=2, prompt_logprobs=1), stagger=2)
    assert set(recorder.replays) == set(SIZES)
    assert tokens(outputs) == tokens(eager)
    for name, output in outputs.items():
        for found, expected in ((output.logprobs, eager[name].logprobs), (output.prompt_logprobs, eager[name].prompt_logprobs)):
            assert found is not None
            assert expected is not None
            scores = [[entry.logprob for entry in entries if entry] for entries in (found, expected)]
            torch.testing.assert_close(*map(torch.tensor, scores), atol=1e-4, rtol=0)


@pytest.mark.parametrize("level", [1, 2])
def test_recorded_anew_after_a_sleep(files: ModelFiles, eager: dict[str, Output], recorder: PlainRecorder, level: int) -> None:
    engine = make(files)
    run(engine, asks())
    before = recorder.num_records
    engine.sleep(level, "abort", lambda problem: None)
    engine.settle()
    engine.wake_up(["weights"])
    assert recorder.num_records == before, "there are no pages yet"
    engine.wake_up(None)
    assert recorder.num_records == before + len(SIZES)
    recorder.replays.clear()
    assert tokens(run(engine, asks(), stagger=2)) == tokens(eager)
    assert recorder.replays


def test_a_wake_that_finds_no_room_for_the_graphs_can_be_tried_again(
    files: ModelFiles, eager: dict[str, Output], recorder: PlainRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(files)
    engine.sleep(1, "abort", lambda problem: None)
    engine.settle()
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "record", _raises_memory_error)
        with pytest.raises(MemoryError):
            engine.wake_up(None)
    assert engine.sleep_state.is_asleep
    engine.wake_up(None)
    assert tokens(run(engine, asks(), stagger=2)) == tokens(eager)


def test_steps_with_adapters_run_eagerly(files: ModelFiles, recorder: PlainRecorder, tmp_path: Path) -> None:
    engine = make(files, lora={"enable_lora": True})
    add_adapter(engine, AdapterRef(1, "a", str(make_adapter(tmp_path / "a", read_config(files)))))
    run(engine, [replace(ask, adapter_id=1) for ask in asks()])
    assert recorder.replays == []
    run(engine, asks()[:1])
    assert recorder.replays == [1] * 11


class Sizing:
    """Free memory of a pretended device, on which each recording takes what ``taken`` says."""

    def __init__(self, taken: Sequence[int]) -> None:
        self.free, self.taken = 1000, list(taken)
        self.graphs = DecodeGraphs(SIZES, InputBuffers(8, 4, 2, torch.device("cpu")), PlainRecorder(), lambda: self.free)

    def compute(self, token_ids: torch.Tensor, batch: object) -> torch.Tensor:
        self.free -= self.taken.pop(0)
        return token_ids


def test_memory_is_measured_with_the_two_largest() -> None:
    sizing = Sizing([100, 7])
    assert sizing.graphs.measure(sizing.compute) == 100 + 7 + 7
    assert sizing.graphs.padded_size(3) == 3, "what was measured is not kept"


@pytest.mark.parametrize(("taken", "warns"), [([100, 7, 7], False), ([100, 7, 9], True)])
def test_more_than_was_set_aside_is_said(taken: list[int], warns: bool, caplog: pytest.LogCaptureFixture) -> None:
    sizing = Sizing([100, 7, *taken])
    sizing.graphs.measure(sizing.compute)
    sizing.graphs.record(sizing.compute)
    assert sizing.taken == []
    assert any("more than was set aside" in message for message in caplog.messages) == warns


def test_nothing_is_kept_of_graphs_that_found_no_room() -> None:
    sizing = Sizing([100, 7])
    with pytest.raises(IndexError):
        sizing.graphs.record(sizing.compute)
    assert [sizing.graphs.padded_size(n) for n in range(1, 5)] == [1, 2, 3, 4]


def test_padded_to_the_smallest_recording_that_holds_a_step() -> None:
    sizing = Sizing([0] * 3)
    assert [sizing.graphs.padded_size(n) for n in range(1, 7)] == [1, 2, 3, 4, 5, 6]
    sizing.graphs.record(sizing.compute)
    assert [sizing.graphs.padded_size(n) for n in range(1, 7)] == [1, 2, 4, 4, 5, 6]
    sizing.graphs.drop()
    assert sizing.graphs.padded_size(3) == 3


def _raises_memory_error(*arguments: object) -> None:
    raise MemoryError
