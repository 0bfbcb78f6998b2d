"""Adapters of the token embedding and the head: as PEFT computes them, from the files that it saves."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from engine_driver import Output, add_adapter, make_engine, request, run
from msgspec.structs import replace
from tiny_adapters import make_adapter, make_peft_adapter
from tiny_models import make_tiny_model, transformers_model
from transformers_models import make_model_for_transformers

from headway.server.engine.core import EngineCore
from headway.server.errors import AdapterError
from headway.server.loading.model_config import read_config
from headway.server.source.files import ModelFiles
from headway.server.types import AdapterRef, GenerateRequest

PROMPTS = [random.Random(i).choices(range(3, 259), k=n) for i, n in enumerate((5, 40, 23))]
BOTH = ["embed_tokens", "lm_head"]
# peft 0.21 asks transformers 5 for a deprecated name, and tells of each copy that it saves and of each tied table.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning",
    "ignore:Setting `save_embedding_layers` to `True`",
    "ignore:.*tie_word_embeddings",
    "ignore:.*ensure_weight_tying",
)


def ask(name: str, prompt: list[int], adapter_id: int | None, **sampling: Any) -> GenerateRequest:
    plain = request(name, prompt, **{"max_tokens": 8, "ignore_eos": True, "logprobs": 0, "prompt_logprobs": 0, **sampling})
    found: GenerateRequest = replace(plain, adapter_id=adapter_id)
    return found


def engine_with(files: ModelFiles, *adapters: Path, **topics: Any) -> EngineCore:
    """Ids from 1 on."""
    engine = make_engine(files, **{"lora": {"enable_lora": True, "max_loras": 3}, "model": {"max_model_len": 256}, **topics})
    for i, path in enumerate(adapters, start=1):
        add_adapter(engine, AdapterRef(i, path.name, str(path)))
    return engine


def scores(output: Output) -> torch.Tensor:
    """Of the prompt's tokens behind the first, and of those that were said."""
    assert output.prompt_logprobs is not None
    return torch.tensor([entry.logprob for entry in (*output.prompt_logprobs, *output.logprobs) if entry])


def peft_says(files: ModelFiles, adapter: Path, prompt: list[int], num_tokens: int = 8) -> tuple[list[int], torch.Tensor]:
    """Greedy tokens of PEFT's own model, and as ``scores``."""
    model = peft.PeftModel.from_pretrained(transformers_model(files), str(adapter)).eval()
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(num_tokens):
            logits = model(torch.tensor([tokens])).logits[0].float()
            tokens.append(int(logits[-1].argmax()))
    return tokens[len(prompt) :], logits.log_softmax(-1).gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]


def assert_is_pefts(files: ModelFiles, adapter: Path) -> None:
    output = run(engine_with(files, adapter), [ask("r", PROMPTS[2], 1)])["r"]
    tokens, expected = peft_says(files, adapter, PROMPTS[2])
    assert output.token_ids == tokens
    torch.testing.assert_close(scores(output), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("model", "targets"),
    [
        ("llama", [*BOTH, "q_proj", "down_proj"]),
        ("llama-tied", BOTH),
        ("llama-tied", ["embed_tokens"]),
        ("llama-tied", ["lm_head"]),
        ("gemma2", BOTH),  # scales its embedding, bends its logits
        ("cohere", BOTH),  # scales its logits
        ("gpt2", ["wte", "lm_head"]),
    ],
    ids=str,
)
def test_equals_peft(tmp_path: Path, model: str, targets: list[str]) -> None:
    """Where embedding and head are one table each has its own update, as in PEFT's forward pass."""
    files = make_tiny_model(model, tmp_path / "model")
    assert_is_pefts(files, make_peft_adapter(tmp_path / "a", transformers_model(files), targets, use_rslora=model == "llama"))


def test_equals_peft_where_the_updates_are_tied(tmp_path: Path) -> None:
    files = make_tiny_model("llama-tied", tmp_path / "model")
    assert_is_pefts(files, make_peft_adapter(tmp_path / "a", transformers_model(files), BOTH, ensure_weight_tying=True))


@pytest.mark.parametrize("model", ["olmo3", "arcee"])
def test_equals_peft_through_transformers(tmp_path: Path, model: str) -> None:
    files = make_model_for_transformers(model, tmp_path / "model")
    assert_is_pefts(files, make_peft_adapter(tmp_path / "a", transformers_model(files), BOTH))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return make_tiny_model("llama-tied", tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def adapters(tiny: ModelFiles, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of both tables, of linears alone, of the embedding alone with another rank."""
    directory = tmp_path_factory.mktemp("adapters")
    return [
        make_peft_adapter(directory / "a", transformers_model(tiny), BOTH, seed=1),
        make_adapter(directory / "b", read_config(tiny), seed=2),
        make_peft_adapter(directory / "c", transformers_model(tiny), ["embed_tokens"], seed=3, r=7),
    ]


REQUESTS = [ask(f"{i}{adapter_id}", prompt, adapter_id) for i, prompt in enumerate(PROMPTS) for adapter_id in (None, 1, 2, 3)]


@pytest.fixture(scope="module")
def alone(tiny: ModelFiles, adapters: list[Path]) -> dict[str, Output]:
    """Each of the requests as it is answered on its own."""
    engine = engine_with(tiny, *adapters, cache={"enable_prefix_caching": False})
    outputs = {name: output for one in REQUESTS for name, output in run(engine, [one]).items()}
    assert len({tuple(output.token_ids) for output in outputs.values()}) == len(outputs), "adapters must change what is said"
    return outputs


@pytest.mark.parametrize("budget", [512, 7], ids=["whole prompts", "chunks"])
def test_mixed_batches_equal_each_alone(tiny: ModelFiles, adapters: list[Path], alone: dict[str, Output], budget: int) -> None:
    """Prefill beside decode, every adapter and none in one step; a second time with what the cache kept of each."""
    engine = engine_with(
        tiny, *adapters, scheduler={"max_num_batched_tokens": budget, "max_num_seqs": min(budget, 64)}, cache={"block_size": 4}
    )
    for name, output in run(engine, REQUESTS, stagger=2).items():
        assert output.token_ids == alone[name].token_ids, name
        torch.testing.assert_close(scores(output), scores(alone[name]), atol=1e-4, rtol=0)
    again = run(engine, [replace(one, sampling=replace(one.sampling, prompt_logprobs=None)) for one in REQUESTS])
    assert {name: output.token_ids for name, output in again.items()} == {name: output.token_ids for name, output in alone.items()}
    assert all(output.num_cached_tokens > 0 for output in again.values())


def test_one_place_for_all(tiny: ModelFiles, adapters: list[Path], alone: dict[str, Output]) -> None:
    """A slot keeps nothing of the tables that the adapter before changed."""
    lora = {"enable_lora": True, "max_loras": 1, "max_cpu_loras": 3}
    outputs = run(engine_with(tiny, *adapters, lora=lora), REQUESTS)
    assert {name: output.token_ids for name, output in outputs.items()} == {name: output.token_ids for name, output in alone.items()}


def test_drafts_change_nothing(tiny: ModelFiles, adapters: list[Path]) -> None:
    """A step has several lines of a row, each of which the head's update is added to."""
    requests = [ask(f"r{i}", PROMPTS[0] * 4, i, max_tokens=24, prompt_logprobs=None) for i in (None, 1, 3)]
    plain = run(engine_with(tiny, *adapters), requests)
    drafting = {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 2}}
    drafted = run(engine_with(tiny, *adapters, speculative=drafting), requests)
    assert {name: output.token_ids for name, output in drafted.items()} == {name: output.token_ids for name, output in plain.items()}


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_beside_rounded_weights(tiny: ModelFiles, adapters: list[Path], quantization: str) -> None:
    """In int8 the stream is rotated, and the tied head is a weight of its own; beside int4 the head's update is kept in 8 bits."""
    exact = engine_with(tiny, *adapters)
    said = run(exact, [ask("a", PROMPTS[1], 1)])["a"].token_ids
    asked = [ask("a", [*PROMPTS[1], *said], 1, max_tokens=1), ask("base", [*PROMPTS[1], *said], None, max_tokens=1)]
    model = {"max_model_len": 256, "quantization": quantization}
    found, expected = run(engine_with(tiny, *adapters, model=model), asked), run(exact, asked)
    count = len(PROMPTS[1]) + len(said) - 1
    error, base_error = ((scores(found[name]) - scores(expected[name]))[:count].norm() for name in ("a", "base"))
    effect = (scores(expected["a"]) - scores(expected["base"]))[:count].norm()
    assert error < 1.5 * base_error + 0.02 * effect


def test_an_embedding_of_transformers_own_is_refused_and_its_head_served(tmp_path: Path) -> None:
    files = make_model_for_transformers("vaultgemma", tmp_path / "model")
    of_both = make_peft_adapter(tmp_path / "a", transformers_model(files), BOTH)
    with pytest.raises(AdapterError, match="and this model has no such embedding"):
        engine_with(files, of_both)
    with_copy = make_peft_adapter(tmp_path / "b", transformers_model(files), ["lm_head"])
    with pytest.raises(AdapterError, match="save_embedding_layers=False"):
        engine_with(files, with_copy)
    assert_is_pefts(files, make_peft_adapter(tmp_path / "c", transformers_model(files), ["lm_head"], save_copies=False))
