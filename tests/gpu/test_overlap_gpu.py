"""Overlapped steps on a CUDA device: the same tokens as steps in turn, and a host that waits for nothing but the step before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_driver import Output, make_engine, request, run
from tiny_models import make_tiny_model
from tiny_tokenizers import byte_level_tokenizer

from headway.server.engine.core import EngineCore
from headway.server.source.files import ModelFiles
from headway.server.text.grammars.library import library_form
from headway.server.types import GenerateRequest, Grammar

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

V = 264
TOKENIZER = byte_level_tokenizer()
EOS = TOKENIZER.eos_token_ids[0]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"logprobs": 2},
    {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "seed": 3},
    {"temperature": 1.0, "min_p": 0.05, "seed": 4, "min_tokens": 5, "eos_token_ids": (EOS,)},
    {"presence_penalty": 1.5, "frequency_penalty": 0.5, "repetition_penalty": 1.3},
    {"bad_words": tuple((a, b) for a in range(0, V, 3) for b in range(1, V, 7)), "logit_bias": {7: 4.0}},
    {"logprobs": 0, "logprob_token_ids": (7, 9)},
    {"grammar": Grammar("checked", library_form(Grammar("regex", "[a-z]{12}"), {})), "eos_token_ids": (EOS,)},
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return make_tiny_model("llama", Path(tmp_path_factory.mktemp("tiny")), seed=1, vocab_size=V, num_hidden_layers=2)


@pytest.fixture(scope="module")
def engines(files: ModelFiles) -> Iterator[tuple[EngineCore, EngineCore]]:
    """Overlapped, and in turn."""
    built = [
        make_engine(
            files,
            load_tokenizer=lambda: TOKENIZER,
            model={"device": "cuda", "max_model_len": 128},
            cache={"num_gpu_blocks_override": 64},
            scheduler={"async_scheduling": overlaps, "max_num_seqs": 16},
        )
        for overlaps in (True, False)
    ]
    yield built[0], built[1]
    for engine in built:
        engine.shutdown()


def asks() -> list[GenerateRequest]:
    return [request(f"r{i}", [5 + i, 6, 7, 8 + i], max_tokens=24, **options) for i, options in enumerate(OPTIONS)]


def finish(engine: EngineCore) -> dict[str, Output]:
    for one in asks():
        engine.add_request(one)
    while engine.awaits_grammars:
        engine.settle()
    return run(engine, [], outputs={one.request_id: Output() for one in asks()})


def test_the_same_tokens(engines: tuple[EngineCore, EngineCore]) -> None:
    overlapped, in_turn = (finish(engine) for engine in engines)
    for name, expected in in_turn.items():
        assert overlapped[name].token_ids == expected.token_ids, name
        assert [entry.logprob for entry in overlapped[name].logprobs] == pytest.approx([e.logprob for e in expected.logprobs], abs=1e-3)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_nothing_waits_unasked(engines: tuple[EngineCore, EngineCore]) -> None:
    """Torch raises where a call would wait for all that the device has to do."""
    overlapped, _ = engines
    finish(overlapped)  # kernels are compiled
    for one in asks():
        overlapped.add_request(one)
    while overlapped.awaits_grammars:
        overlapped.settle()
    torch.cuda.set_sync_debug_mode("error")
    try:
        outputs = run(overlapped, [], outputs={one.request_id: Output() for one in asks()})
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(output.token_ids for output in outputs.values())


def test_a_step_is_begun_while_the_one_before_runs(engines: tuple[EngineCore, EngineCore], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step is made to last: the model's work of the next one is launched before it ends."""
    overlapped, _ = engines
    finish(overlapped)  # kernels are compiled
    model = overlapped._executor._worker.resident.model  # type: ignore[attr-defined]
    logits_of, ends, were_over = model.logits, [], []

    def slow_logits(hidden: torch.Tensor) -> torch.Tensor:
        were_over.append(bool(ends) and ends[-1].query())
        logits: torch.Tensor = logits_of(hidden)
        torch.cuda._sleep(500_000_000)  # a quarter of a second; launching a tiny model takes milliseconds
        ends.append(torch.cuda.Event())  # type: ignore[no-untyped-call]
        ends[-1].record()
        return logits

    monkeypatch.setattr(model, "logits", slow_logits)
    run(overlapped, [request("a", [5, 6], max_tokens=4, ignore_eos=True)])
    assert were_over == [False] * 4
