"""A decode step is one call of a compiled kernel, and what requests want of its logits changes nothing about them."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from engine_driver import add_adapter, make_engine, request, run
from msgspec.structs import replace
from tiny_adapters import make_adapter
from tiny_models import make_tiny_model

from headway.kernels import cpu
from headway.kernels.cpu.native import library
from headway.server.engine.core import EngineCore
from headway.server.loading.model_config import read_config
from headway.server.models.decoder import DecoderModel
from headway.server.source.files import ModelFiles
from headway.server.types import AdapterRef, GenerateRequest

pytestmark = pytest.mark.skipif(library.library() is None, reason="the CPU kernels were not built")
MODEL = {"max_model_len": 64, "quantization": "int4", "dtype": "auto"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return make_tiny_model("llama", Path(tmp_path_factory.mktemp("tiny")), seed=1)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of compiled kernels, by name, that are looked up from now on."""
    made: list[str] = []

    def find(name: str, *types: Any) -> Callable[..., Any] | None:
        kernel = library.function(name, *types)

        def counted(*arguments: Any) -> Any:
            assert kernel is not None
            made.append(name)
            return kernel(*arguments)

        return None if kernel is None else counted

    for module in pkgutil.iter_modules(cpu.__path__, f"{cpu.__name__}."):
        if getattr(import_module(module.name), "function", None) is library.function:
            monkeypatch.setattr(f"{module.name}.function", find)
    return made


def decode(engine: EngineCore, calls: list[str], **sampling: Any) -> list[str]:
    """The calls of a step of two requests that does nothing else."""
    for i in range(2):
        engine.add_request(request(f"r{i}", [5, 6, 7 + i], max_tokens=9, ignore_eos=True, **sampling))
    for _ in range(3):
        engine.step()
    calls.clear()
    assert [len(delta.token_ids) for delta in engine.step().deltas] == [1, 1]
    made = list(calls)
    engine.abort_all()
    while engine.has_work:
        engine.step()
    return made


def test_a_decode_step_is_one_call(files: ModelFiles, calls: list[str]) -> None:
    engine = make_engine(files, model=MODEL)
    assert decode(engine, calls) == ["decoder_layers"], "with its embedding, its head and its most likely tokens"
    assert decode(engine, calls, temperature=1.0) == ["decoder_layers", "first_maximum"], "which tells of logits that can't be drawn from"
    assert decode(engine, calls, logprobs=2) == ["decoder_layers", "first_maximum"]


def answers(files: ModelFiles, adapter: Path, **topics: Any) -> tuple[object, ...]:
    """Of requests side by side with everything that is done to logits between the head and the choice, or asks for hidden states."""
    engine = make_engine(files, model=MODEL, lora={"enable_lora": True}, cache={"num_gpu_blocks_override": 64, "block_size": 4}, **topics)
    add_adapter(engine, AdapterRef(1, "a", str(adapter)))
    wishes: dict[str, dict[str, Any]] = {
        "greedy": {},
        "drawn": {"temperature": 0.8, "seed": 3, "top_p": 0.9},
        "scored": {"logprobs": 3},
        "prompt": {"prompt_logprobs": 1},
        "biased": {"logit_bias": {9: 4.0}, "presence_penalty": 0.5},
        "adapted": {},
    }
    asked: list[GenerateRequest] = [
        request(name, [20 + i, 6, 7], max_tokens=8 + i, ignore_eos=True, **wish) for i, (name, wish) in enumerate(wishes.items())
    ]
    asked[-1] = replace(asked[-1], adapter_id=1)
    outputs = run(engine, asked, stagger=1)
    return tuple((name, found.token_ids, found.logprobs, found.prompt_logprobs) for name, found in outputs.items())


@pytest.mark.parametrize("speculative", [None, {"method": "ngram", "num_speculative_tokens": 2}], ids=str)
@pytest.mark.parametrize("target", ["lm_head", "q_proj"])
def test_answers_are_those_of_a_head_that_is_asked(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, speculative: dict[str, Any] | None
) -> None:
    """An adapter of the head changes what it says of its rows; one of the layers does not."""
    adapter = make_adapter(tmp_path / "a", read_config(files), targets=[target], spread=0.5)
    topics = {"speculative": {"speculative_config": speculative}} if speculative else {}
    found = answers(files, adapter, **topics)
    monkeypatch.setattr(DecoderModel, "_fused_end", None)
    assert found == answers(files, adapter, **topics)
