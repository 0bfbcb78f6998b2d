"""Adapters in the engine: a request with one is answered as the model with the adapter merged in would, whatever runs beside it."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from demo_model import demo_files
from engine_driver import Output, add_adapter, make_engine, request, run
from msgspec.structs import replace
from tiny_adapters import make_adapter, make_adapter_of_all_linears
from tiny_models import make_tiny_model, transformers_model
from transformers_models import make_model_for_transformers

import headway.server.engine.lora as engine_lora
from headway.server.engine.core import EngineCore
from headway.server.errors import AdapterError
from headway.server.loading.model_config import read_config
from headway.server.source.files import ModelFiles
from headway.server.types import AdapterRef, FinishReason, GenerateRequest

PROMPTS = [random.Random(i).choices(range(3, 259), k=n) for i, n in enumerate((5, 40, 23))]
LORA = {"enable_lora": True, "max_loras": 2}
# peft 0.21 asks transformers 5 for a deprecated name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def with_adapter(engine_request: GenerateRequest, adapter_id: int | None) -> GenerateRequest:
    found: GenerateRequest = replace(engine_request, adapter_id=adapter_id)
    return found


def ask(name: str, prompt: list[int], adapter_id: int | None, **sampling: Any) -> GenerateRequest:
    return with_adapter(request(name, prompt, logprobs=0, **{"max_tokens": 12, "ignore_eos": True, **sampling}), adapter_id)


def peft_tokens(files: ModelFiles, adapter: Path, prompt: list[int], num_tokens: int) -> tuple[list[int], torch.Tensor]:
    """Greedy tokens of PEFT's own model, and its last position's log-probabilities before each."""
    import peft

    model = peft.PeftModel.from_pretrained(transformers_model(files), str(adapter)).eval()
    tokens, scores = list(prompt), []
    with torch.inference_mode():
        for _ in range(num_tokens):
            scores.append(model(torch.tensor([tokens])).logits[0, -1].float().log_softmax(-1))
            tokens.append(int(scores[-1].argmax()))
    return tokens[len(prompt) :], torch.stack(scores)


def assert_is(output: Output, tokens: list[int], scores: torch.Tensor, atol: float = 2e-4) -> None:
    assert output.token_ids == tokens
    found = torch.tensor([entry.logprob for entry in output.logprobs])
    torch.testing.assert_close(found, scores.gather(1, torch.tensor(tokens)[:, None])[:, 0], atol=atol, rtol=0)


@pytest.mark.parametrize("model", ["llama", "llama-biased", "qwen2", "qwen3", "mistral"])
def test_equals_peft(tmp_path: Path, model: str) -> None:
    files = make_tiny_model(model, tmp_path / "model")
    adapter = make_adapter(tmp_path / "a", read_config(files))
    engine = make_engine(files, lora=LORA, model={"max_model_len": 256})
    add_adapter(engine, AdapterRef(1, "a", str(adapter)))
    for i, prompt in enumerate(PROMPTS):
        assert_is(run(engine, [ask(f"r{i}", prompt, 1)])[f"r{i}"], *peft_tokens(files, adapter, prompt, 12))


@pytest.mark.parametrize("model", ["phi3", "gpt2", "gemma2", "opt", "starcoder2"])
def test_equals_peft_by_the_names_of_a_family(tmp_path: Path, model: str) -> None:
    files = make_tiny_model(model, tmp_path / "model")
    is_transposed = {"fan_in_fan_out": True} if model == "gpt2" else {}
    adapter = make_adapter_of_all_linears(tmp_path / "a", transformers_model(files), **is_transposed)
    engine = make_engine(files, lora=LORA, model={"max_model_len": 256})
    add_adapter(engine, AdapterRef(1, "a", str(adapter)))
    assert_is(run(engine, [ask("r", PROMPTS[2], 1)])["r"], *peft_tokens(files, adapter, PROMPTS[2], 12))


@pytest.mark.parametrize("model", ["deepseek-v2", "deepseek-v3"])
def test_equals_peft_where_attention_has_latents(tmp_path: Path, model: str) -> None:
    """Of adapters that leave the latents' way to keys and values as it is, which here is no linear."""
    files = make_tiny_model(model, tmp_path / "model")
    targets = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj"]
    adapter = make_adapter(tmp_path / "a", read_config(files), targets=targets)
    engine = make_engine(files, lora=LORA, model={"max_model_len": 256})
    add_adapter(engine, AdapterRef(1, "a", str(adapter)))
    assert_is(run(engine, [ask("r", PROMPTS[2], 1)])["r"], *peft_tokens(files, adapter, PROMPTS[2], 12))


@pytest.mark.parametrize("model", ["olmo3", "glm4", "gptj"])
def test_equals_peft_through_transformers(tmp_path: Path, model: str) -> None:
    files = make_model_for_transformers(model, tmp_path / "model")
    adapter = make_adapter_of_all_linears(tmp_path / "a", transformers_model(files))
    engine = make_engine(files, lora=LORA, model={"max_model_len": 256})
    add_adapter(engine, AdapterRef(1, "a", str(adapter)))
    assert_is(run(engine, [ask("r", PROMPTS[2], 1)])["r"], *peft_tokens(files, adapter, PROMPTS[2], 12))


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True, "alpha": 3},
        {"targets": ["q_proj", "v_proj"], "rank": 16, "alpha": 32},
        {"targets": ["k_proj", "up_proj", "o_proj"], "alpha_pattern": {"up_proj": 3, "model.layers.1.self_attn.k_proj": 40}},
        {"dtype": torch.float16},
    ],
    ids=str,
)
def test_equals_peft_in_its_variants(tmp_path: Path, settings: dict[str, Any]) -> None:
    files = make_tiny_model("llama", tmp_path / "model")
    adapter = make_adapter(tmp_path / "a", read_config(files), **settings)
    engine = make_engine(files, lora=LORA, model={"max_model_len": 256})
    add_adapter(engine, AdapterRef(1, "a", str(adapter)))
    assert_is(run(engine, [ask("r", PROMPTS[2], 1)])["r"], *peft_tokens(files, adapter, PROMPTS[2], 12))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return make_tiny_model("llama", tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def adapters(tiny: ModelFiles, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("adapters")
    return [
        make_adapter(directory / "a", read_config(tiny), seed=1),
        make_adapter(directory / "b", read_config(tiny), seed=2, rank=8, targets=["v_proj", "down_proj"]),
    ]


def two_adapters(files: ModelFiles, adapters: list[Path], **topics: Any) -> EngineCore:
    """Ids 1 and 2."""
    engine = make_engine(files, **{"lora": LORA, "model": {"max_model_len": 256}, **topics})
    for i, path in enumerate(adapters, start=1):
        add_adapter(engine, AdapterRef(i, path.name, str(path)))
    return engine


@pytest.mark.parametrize("budget", [512, 7], ids=["whole prompts", "chunks"])
@pytest.mark.parametrize("stagger", [0, 2])
def test_mixed_batches_equal_each_alone(tiny: ModelFiles, adapters: list[Path], budget: int, stagger: int) -> None:
    """No adapter, a and b side by side, prefill beside decode, cut into chunks that hold tokens of several."""
    alone: dict[str, Output] = {}
    for key, adapter_id in (("base", None), ("a", 1), ("b", 2)):
        for i, prompt in enumerate(PROMPTS):
            alone |= run(two_adapters(tiny, adapters), [ask(f"{key}{i}", prompt, adapter_id)])
    assert len({tuple(output.token_ids) for output in alone.values()}) == len(alone), "adapters must change what is said"
    engine = two_adapters(tiny, adapters, scheduler={"max_num_batched_tokens": budget, "max_num_seqs": min(budget, 64)})
    requests = [ask(f"{key}{i}", p, a) for i, p in enumerate(PROMPTS) for key, a in (("base", None), ("a", 1), ("b", 2))]
    mixed = run(engine, requests, stagger=stagger)
    for name, output in mixed.items():
        assert output.token_ids == alone[name].token_ids, name
        found, expected = ([entry.logprob for entry in o.logprobs] for o in (output, alone[name]))
        assert found == pytest.approx(expected, abs=2e-4)


def test_adapters_share_no_prefix(tiny: ModelFiles, adapters: list[Path]) -> None:
    engine = two_adapters(tiny, adapters, cache={"block_size": 4})
    prompt = PROMPTS[1]
    first = {key: run(engine, [ask(key, prompt, key)])[key] for key in (None, 1, 2)}  # type: ignore[arg-type,index]
    assert [output.num_cached_tokens for output in first.values()] == [0, 0, 0]
    for key, output in first.items():
        again = run(engine, [ask("again", prompt, key)])["again"]
        assert again.num_cached_tokens == 36, "its own blocks are found"
        assert again.token_ids == output.token_ids


def test_an_adapter_of_a_new_id_finds_nothing_of_the_old_one(tiny: ModelFiles, adapters: list[Path]) -> None:
    engine = two_adapters(tiny, adapters)
    prompt = PROMPTS[1]
    old = run(engine, [ask("r", prompt, 1)])["r"]
    engine.remove_adapter(1)
    add_adapter(engine, AdapterRef(3, "a", str(adapters[1])))  # the same name and slot, other weights
    new = run(engine, [ask("r", prompt, 3), ask("s", prompt, 2)])
    assert new["r"].token_ids == new["s"].token_ids != old.token_ids
    assert new["r"].num_cached_tokens == 0


def test_preempted_requests_keep_their_adapter(tiny: ModelFiles, adapters: list[Path]) -> None:
    requests = [ask(f"r{i}", PROMPTS[2], i % 3 or None, max_tokens=30) for i in range(6)]
    roomy = run(two_adapters(tiny, adapters), requests)
    tight = two_adapters(tiny, adapters, cache={"block_size": 4, "num_gpu_blocks_override": 40})
    outputs = run(tight, requests)
    assert sum(output.num_preemptions for output in outputs.values()) > 0
    assert {name: o.token_ids for name, o in outputs.items()} == {name: o.token_ids for name, o in roomy.items()}


def test_int8_with_a_rotated_stream_has_the_same_adapter(tiny: ModelFiles, adapters: list[Path]) -> None:
    """Rounding moves the logits a little, the adapter much; both halves of an update are turned as their weight is."""
    prompt = PROMPTS[1]
    exact = run(two_adapters(tiny, adapters), [ask("r", prompt, 1, prompt_logprobs=0), ask("base", prompt, None, prompt_logprobs=0)])
    engine = two_adapters(tiny, adapters, model={"max_model_len": 256, "quantization": "int8"})
    rounded = run(engine, [ask("r", prompt, 1, prompt_logprobs=0)])["r"]

    def scores(output: Output) -> torch.Tensor:
        assert output.prompt_logprobs is not None
        return torch.tensor([entry.logprob for entry in output.prompt_logprobs if entry])

    error = (scores(rounded) - scores(exact["r"])).norm()
    effect = (scores(exact["base"]) - scores(exact["r"])).norm()
    assert error < 0.1 * effect


def test_bfloat16(tiny: ModelFiles, adapters: list[Path]) -> None:
    exact = run(two_adapters(tiny, adapters), [ask("r", PROMPTS[1], 1)])["r"]
    rounded = run(two_adapters(tiny, adapters, model={"max_model_len": 256, "dtype": "bfloat16"}), [ask("r", PROMPTS[1], 1)])["r"]
    assert rounded.logprobs[0].logprob == pytest.approx(exact.logprobs[0].logprob, abs=0.3)


def test_unloading_an_adapter_in_use_is_refused(tiny: ModelFiles, adapters: list[Path]) -> None:
    engine = two_adapters(tiny, adapters)
    engine.add_request(ask("r", PROMPTS[0], 1))
    with pytest.raises(AdapterError, match="are open"):
        engine.remove_adapter(1)
    engine.step()
    with pytest.raises(AdapterError, match="are open"):
        engine.remove_adapter(1)
    engine.abort(["r"])
    engine.remove_adapter(1)
    with pytest.raises(AdapterError, match="No adapter with the id 1 is registered"):
        engine.remove_adapter(1)


def test_a_request_with_an_adapter_that_nobody_registered_ends_alone(tiny: ModelFiles, adapters: list[Path]) -> None:
    engine = two_adapters(tiny, adapters)
    engine.add_request(ask("r", PROMPTS[0], 9))
    [delta] = engine.step().deltas
    assert delta.finish_reason is FinishReason.ERROR
    assert delta.error is not None
    assert "(id 9) is not registered" in delta.error


def test_a_slot_that_another_adapter_had_keeps_nothing_of_it(tiny: ModelFiles, adapters: list[Path], tmp_path: Path) -> None:
    """And neither does a load that broke."""
    engine = two_adapters(tiny, adapters)
    with pytest.raises(AdapterError, match="can't be read"):
        add_adapter(engine, AdapterRef(4, "d", str(tmp_path)))
    add_adapter(engine, AdapterRef(5, "e", str(adapters[0])))  # in the place of one that is idle
    outputs = run(engine, [ask("new", PROMPTS[0], 5), ask("old", PROMPTS[0], 1)])
    assert outputs["old"].token_ids == outputs["new"].token_ids


def test_more_adapters_than_places_take_turns(tiny: ModelFiles, tmp_path: Path) -> None:
    """One place, three adapters, requests for all of them at once: each is answered as it is alone."""
    paths = [make_adapter(tmp_path / str(i), read_config(tiny), seed=i) for i in range(3)]
    requests = [ask(f"r{i}", PROMPTS[i % 3], i % 3 + 1) for i in range(9)]

    def answers(**lora: Any) -> dict[str, list[int]]:
        engine = make_engine(tiny, lora={"enable_lora": True, **lora}, model={"max_model_len": 256})
        for i, path in enumerate(paths, start=1):
            engine.add_adapter(AdapterRef(i, path.name, str(path)), preload=False, is_pinned=False, done=lambda problem: None)
        return {name: output.token_ids for name, output in run(engine, requests).items()}

    each_has_a_place = answers(max_loras=3)
    assert answers(max_loras=1) == answers(max_loras=1, max_cpu_loras=3) == each_has_a_place
    plain = run(make_engine(tiny, model={"max_model_len": 256}), [ask(f"r{i}", PROMPTS[i], None) for i in range(3)])
    assert all(plain[f"r{i}"].token_ids != each_has_a_place[f"r{i}"] for i in range(3))


def test_a_place_is_kept_while_it_is_pinned(tiny: ModelFiles, adapters: list[Path]) -> None:
    engine = two_adapters(tiny, adapters, lora={"enable_lora": True, "max_loras": 1, "max_cpu_loras": 2})
    answers: list[Exception | None] = []

    def pin(preload: bool, is_pinned: bool) -> None:
        engine.pin_adapter(1, preload, is_pinned, answers.append)

    def on_the_device() -> tuple[int, ...]:
        stats = engine.stats().adapters
        assert stats is not None
        return stats.loaded

    pin(preload=True, is_pinned=True)
    while not answers:
        engine.step()
    assert (answers, on_the_device()) == ([None], (1,))
    engine.add_request(ask("early", PROMPTS[0], 2))
    [refused] = engine.step().deltas
    assert refused.finish_reason is FinishReason.ERROR
    assert "is pinned by now (--max-loras 1)" in str(refused.error)
    assert on_the_device() == (1,)
    pin(preload=False, is_pinned=False)
    assert answers == [None, None]
    assert run(engine, [ask("r", PROMPTS[0], 2)])["r"].finish_reason is FinishReason.LENGTH
    assert on_the_device() == (2,)
    engine.pin_adapter(9, True, True, answers.append)
    assert "No adapter with the id 9 is registered" in str(answers[-1])


def test_steps_go_on_while_an_adapter_is_read(tiny: ModelFiles, adapters: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    may_read = threading.Event()
    plain_read = engine_lora.read_adapter

    def slow_read(*args: Any) -> Any:
        assert may_read.wait(60)
        return plain_read(*args)

    engine = two_adapters(tiny, adapters)
    monkeypatch.setattr(engine_lora, "read_adapter", slow_read)
    engine.add_adapter(AdapterRef(3, "c", str(adapters[1])), preload=False, is_pinned=False, done=lambda problem: None)
    outputs = {name: Output() for name in ("plain", "with a", "waits")}
    engine.add_request(ask("waits", PROMPTS[0], 3))
    for name, adapter_id in (("plain", None), ("with a", 1)):
        engine.add_request(ask(name, PROMPTS[0], adapter_id))
    while not all(outputs[name].finish_reason for name in ("plain", "with a")):
        for delta in engine.step().deltas:
            outputs[delta.request_id].token_ids += delta.token_ids
            outputs[delta.request_id].finish_reason = delta.finish_reason
    assert (len(outputs["plain"].token_ids), len(outputs["with a"].token_ids), outputs["waits"].token_ids) == (12, 12, [])
    stats = engine.stats()
    assert (stats.num_waiting, stats.num_blocks_used) == (1, 0), "it waits, and holds no block"
    assert stats.adapters is not None
    assert stats.adapters.waiting == (3,)
    may_read.set()
    last = run(engine, [], outputs={"waits": outputs["waits"]})["waits"]
    assert last.token_ids == run(two_adapters(tiny, adapters), [ask("b", PROMPTS[0], 2)])["b"].token_ids


def test_an_adapter_that_cannot_be_loaded_ends_its_requests_alone(tiny: ModelFiles, adapters: list[Path], tmp_path: Path) -> None:
    engine = two_adapters(tiny, adapters)
    engine.add_adapter(AdapterRef(3, "c", str(tmp_path)), preload=False, is_pinned=False, done=lambda problem: None)
    for name, adapter_id in (("broken", 3), ("with a", 1), ("broken too", 3)):
        engine.add_request(ask(name, PROMPTS[0], adapter_id))
    ended = {}
    while engine.has_work:
        ended |= {delta.request_id: delta for delta in engine.step().deltas if delta.finish_reason is not None}
    assert ended["with a"].finish_reason is FinishReason.LENGTH
    for name in ("broken", "broken too"):
        assert (ended[name].finish_reason, ended[name].is_request_fault) == (FinishReason.ERROR, True)
        assert "can't be read" in str(ended[name].error)
    make_adapter(tmp_path, read_config(tiny), seed=1)
    assert run(engine, [ask("again", PROMPTS[0], 3)])["again"].token_ids, "the next request has it read anew"


def test_without_lora_an_adapter_is_refused(tiny: ModelFiles, adapters: list[Path]) -> None:
    engine = make_engine(tiny, model={"max_model_len": 256})
    with pytest.raises(AdapterError, match="--enable-lora"):
        add_adapter(engine, AdapterRef(1, "a", str(adapters[0])))


def test_gguf_rows_are_in_the_adapters_order(tmp_path: Path) -> None:
    """llama.cpp reorders the rows of query and key; an adapter of the safetensors model still fits."""
    from gguf_files import convert_to_gguf

    files = make_tiny_model("llama", tmp_path / "model")
    gguf = convert_to_gguf(files, tmp_path / "tiny.gguf", "llama")
    adapter = make_adapter(tmp_path / "a", read_config(files), targets=["q_proj", "k_proj"], spread=0.3)
    outputs = []
    for each in (files, gguf):
        engine = make_engine(each, lora=LORA, model={"max_model_len": 256})
        add_adapter(engine, AdapterRef(1, "a", str(adapter)))
        outputs.append(run(engine, [ask("r", PROMPTS[1], 1)])["r"])
    assert outputs[0].token_ids == outputs[1].token_ids


def test_the_demo_model_takes_an_adapter(tmp_path: Path) -> None:
    files = demo_files()
    adapter = make_adapter(tmp_path / "a", read_config(files), spread=0.05)
    engine = make_engine(files, lora=LORA, model={"max_model_len": 256, "dtype": "auto"})
    prompt = list(range(100, 130))
    before = run(engine, [ask("r", prompt, None)])["r"].token_ids
    add_adapter(engine, AdapterRef(1, "a", str(adapter)))
    outputs = run(engine, [ask("r", prompt, None), ask("a", prompt, 1)])
    assert outputs["r"].token_ids == before != outputs["a"].token_ids


def test_adapters_in_8_bits_do_what_they_do_in_fp32(tmp_path: Path) -> None:
    """The demo model's weights are in groups: adapters are rounded, a layer of a decode step is one call. In float32 neither is so."""
    files, prompt = demo_files(), list(range(100, 130))
    config = read_config(files)
    paths = [make_adapter(tmp_path / "a", config, rank=16), make_adapter(tmp_path / "b", config, seed=1, rank=5)]
    rounded = two_adapters(files, paths, model={"max_model_len": 256, "dtype": "auto"})
    outputs = run(rounded, [ask(f"r{i}", prompt, i) for i in (1, None, 2)])
    exact = two_adapters(files, paths)

    def score(tokens: list[int], adapter_id: int | None) -> torch.Tensor:
        asked = ask("r", [*prompt, *tokens], adapter_id, max_tokens=1, prompt_logprobs=0)
        entries = run(exact, [asked])["r"].prompt_logprobs
        assert entries is not None
        return torch.tensor([entry.logprob for entry in entries[len(prompt) :] if entry])

    for i in (1, 2):
        tokens = outputs[f"r{i}"].token_ids
        found, expected = torch.tensor([entry.logprob for entry in outputs[f"r{i}"].logprobs]), score(tokens, i)
        assert (found - expected).norm() < 0.1 * (score(tokens, None) - expected).norm()
