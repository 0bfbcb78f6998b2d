"""EAGLE heads draft: what the papers' formulas say, whatever the load, and nothing changes but the number of steps."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from any_load import ARRIVALS, EOS, OPTIONS, TOKENIZER, Run, V, assert_same, play, requests_of
from drafted_engines import FreeCosts, drafting_of, drafts_of
from engine_driver import add_adapter, make_engine, request
from faulty_model import FaultyModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from plain_heads import DraftRecorder, PlainHead
from plain_recorder import PlainRecorder, use_plain_graphs
from tiny_adapters import EVERYTHING, make_adapter
from tiny_heads import head_weights, make_head, make_knowing_head, quieten
from tiny_models import make_tiny_model

from headway.server.engine import model_rank
from headway.server.engine.core import EngineCore
from headway.server.loading.model_config import read_config
from headway.server.source.files import ModelFiles
from headway.server.types import AdapterRef, GenerateRequest

RIGHT = {3: 99.0}  # a bias that leaves the model no choice; the heads of EAGLE-3 here guess one of four tokens, of which this is one


@cache
def target() -> ModelFiles:
    """A quiet one, so that a head may know what comes."""
    files = make_tiny_model("llama", Path(mkdtemp()), seed=1, vocab_size=V, num_hidden_layers=4)
    quieten(files, 0.01)
    return files


@cache
def head(method: str) -> ModelFiles:
    directory = Path(mkdtemp())
    if method == "eagle":
        return make_knowing_head(directory, target(), noise=0.02)
    return make_head(method, directory, target(), config={"draft_vocab_size": 4})


def make(method: str | None, *, files: ModelFiles | None = None, num_blocks: int = 64, **topics: Any) -> EngineCore:
    """With a head of ``method``; None: without drafts."""
    asked = {} if method is None else {"method": method, "model": "head", "num_speculative_tokens": 3}
    engine = make_engine(
        topics.pop("target", None) or target(),
        load_tokenizer=lambda: TOKENIZER,
        draft_files=None if method is None else files or head(method),
        model={"max_model_len": 48} | topics.pop("model", {}),
        cache={"num_gpu_blocks_override": num_blocks, "block_size": 4} | topics.pop("cache", {}),
        speculative={"speculative_config": asked},
        **topics,
    )
    if method is not None:
        drafting_of(engine)._costs = FreeCosts()  # type: ignore[assignment]
    return engine


@cache
def plain() -> EngineCore:
    return make(None)


def finish(engine: EngineCore, requests: list[GenerateRequest]) -> Run:
    for one in requests:
        engine.add_request(one)
    return Run().finish(engine)


def asks(count: int, length: int = 9, **options: Any) -> list[GenerateRequest]:
    return [request(f"r{i}", list(range(i + 3, i + 3 + length)), **{"max_tokens": 20, "ignore_eos": True} | options) for i in range(count)]


def assert_as_the_formula_says(recorder: DraftRecorder, plain_head: PlainHead) -> None:
    for text, drafts in recorder.drawn[:: len(recorder.drawn) // 16]:
        assert drafts == plain_head.drafts(text, len(drafts))


def assert_drafts_were_used(engine: EngineCore) -> None:
    drafts = drafts_of(engine)
    assert 0 < drafts.num_accepted_tokens < drafts.num_draft_tokens


@pytest.mark.parametrize(
    ("method", "further", "taps"),
    [
        ("eagle", {}, ()),
        ("eagle3", {}, (1, 2, 3)),
        ("eagle3", {"eagle_config": None, "eagle_aux_hidden_state_layer_ids": [0, 1, 2], "norm_before_residual": True}, (0, 1, 2)),
        ("eagle3", {"norm_before_fc": True, "norm_output": True}, (1, 2, 3)),
        ("eagle3", {"fc_norm": True, "norm_output": True}, (1, 2, 3)),
    ],
    ids=["eagle", "eagle3", "eagle3-beside", "eagle3-normed-whole", "eagle3-normed-parts"],
)
def test_drafts_are_those_of_the_formula(method: str, further: dict[str, Any], taps: tuple[int, ...], tmp_path: Path) -> None:
    """Of prompts in chunks, of requests that come back from preemption or find a prefix, and behind drafts that were right or wrong."""
    model = make_tiny_model("llama", tmp_path / "model", seed=3, vocab_size=V, num_hidden_layers=4)
    if method == "eagle":
        quieten(model, 0.02)
        files = make_knowing_head(tmp_path / "head", model, noise=0.3)
    else:
        files = make_head(method, tmp_path / "head", model, config={"draft_vocab_size": 4, **further})
    engine = make(method, files=files, target=model, num_blocks=14, scheduler={"max_num_batched_tokens": 6, "max_num_seqs": 5})
    recorder = DraftRecorder(engine)
    requests = asks(4, max_tokens=24, logit_bias=RIGHT if method == "eagle3" else {})
    run = finish(engine, requests)
    texts = [one.prompt_token_ids + run.tokens[one.request_id] for one in requests[2:]]
    finish(engine, [request(f"again {i}", text, max_tokens=8, ignore_eos=True) for i, text in enumerate(texts)])
    stats = engine.stats()
    assert stats.num_preemptions > 0
    assert stats.prefix_cache_hits >= 8
    assert_drafts_were_used(engine)
    assert_as_the_formula_says(recorder, PlainHead(method, model, files, taps))


@pytest.mark.parametrize("method", ["eagle", "eagle3"])
def test_a_prefix_that_is_found_is_read_as_if_it_were_computed(method: str, tmp_path: Path) -> None:
    """With the hidden state of its last token, though nobody computes that again."""
    model = make_tiny_model("llama", tmp_path / "model", seed=3, vocab_size=V, num_hidden_layers=4)
    files = make_head(method, tmp_path / "head", model, seed=2)
    engine = make(method, files=files, target=model)
    finish(engine, asks(1, length=8, max_tokens=1))
    recorder = DraftRecorder(engine)
    for i in range(6):  # one after the other: see speculative/eagle.py on what stands at the end of a block
        run = finish(engine, [request(f"r{i}", [*range(3, 11), 20 + i], max_tokens=3)])
        assert run.ends[f"r{i}"].num_cached_tokens == 8
    plain_head = PlainHead(method, model, files, (1, 2, 3))
    assert len(recorder.drawn) >= 6
    assert all(drafts == plain_head.drafts(text, len(drafts)) for text, drafts in recorder.drawn)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options)) or "greedy")
def test_answers_are_those_without_drafts(options: dict[str, Any]) -> None:
    requests = asks(2, eos_token_ids=(EOS,), **{"ignore_eos": "grammar" not in options} | options)
    for method in "eagle", "eagle3":
        assert_same(finish(_drafted(method, 64, 64), requests), finish(plain(), requests))


@cache
def _drafted(method: str, num_blocks: int, chunk: int) -> EngineCore:
    return make(method, num_blocks=num_blocks, scheduler={"max_num_batched_tokens": chunk, "max_num_seqs": 5})


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    method=st.sampled_from(["eagle", "eagle3"]),
    arrivals=st.lists(ARRIVALS, min_size=1, max_size=8),
    num_blocks=st.sampled_from([14, 40]),
    chunk=st.sampled_from([6, 64]),
)
def test_any_load_gives_the_same_tokens(method: str, arrivals: list[dict[str, Any]], num_blocks: int, chunk: int) -> None:
    requests = requests_of(arrivals)
    assert_same(play(_drafted(method, num_blocks, chunk), arrivals, requests), finish(plain(), requests))


def test_right_drafts_save_steps_and_are_counted() -> None:
    engine = make("eagle")
    requests = asks(1, max_tokens=25)
    assert_same(finish(engine, requests), finish(plain(), requests))
    drafts = drafts_of(engine)
    assert drafts.num_accepted_tokens >= 6
    assert engine.stats().num_steps == 25 - drafts.num_accepted_tokens


def test_pages_in_fp8() -> None:
    cache = {"kv_cache_dtype": "fp8"}
    requests = asks(2)
    engine = make("eagle", cache=cache)
    assert_same(finish(engine, requests), finish(make(None, cache=cache), requests))
    assert_drafts_were_used(engine)


def test_a_head_reads_what_the_model_says_with_an_adapter(tmp_path: Path) -> None:
    adapter = AdapterRef(1, "a", str(make_adapter(tmp_path, read_config(target()), targets=EVERYTHING)))
    requests = [replace(one, adapter_id=1) for one in asks(2)]
    runs = []
    for method in None, "eagle":
        engine = make(method, lora={"enable_lora": True})
        add_adapter(engine, adapter)
        runs.append(finish(engine, requests))
    assert_same(*runs)
    assert drafts_of(engine).num_draft_tokens > 0


def test_decode_steps_replay_their_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head's for what is pending of all rows and for a token a row; EAGLE-3's of the model fill what the head reads."""
    recorders = [use_plain_graphs(monkeypatch, sizes=(1, 2, 4, 8)), PlainRecorder()]
    making = iter(recorders)
    monkeypatch.setattr(model_rank, "CudaRecorder", lambda device: next(making))
    requests = asks(2, logit_bias=RIGHT)
    engine = make("eagle3")
    assert_same(finish(engine, requests), finish(plain(), requests))
    assert_drafts_were_used(engine)
    model, small = (set(recorder.replays) for recorder in recorders)
    assert 8 in model
    assert {2, 4} <= small


@pytest.mark.parametrize("method", ["eagle", "eagle3"])
def test_a_request_that_breaks_the_head_ends_alone(method: str) -> None:
    requests = asks(3, length=3, max_tokens=8)
    expected = finish(plain(), requests)
    bad = next(token for token in range(20, V) if all(token not in tokens for tokens in expected.tokens.values()))
    engine = make(method)
    resident = engine._executor._worker.runner._drafter._resident  # type: ignore[attr-defined]
    resident.give_model(FaultyModel(resident.model, bad))
    run = finish(engine, [request("bad", [6, bad, 7], max_tokens=8), *requests])
    assert "a kernel refused this token" in str(run.ends["bad"].error)
    for one in requests:
        assert run.tokens[one.request_id] == expected.tokens[one.request_id]


def test_its_memory_is_planned_and_told() -> None:
    told = make("eagle3").info.draft_model
    assert told is not None
    assert (told.name, told.architecture, told.weight_format) == (head("eagle3").name, "eagle3", "fp32")
    weights = [value for name, value in head_weights(head("eagle3")).items() if name not in ("d2t", "t2d")]
    assert told.weight_bytes == sum(value.nbytes for value in weights)
    a_block = 4 * 2 * 2 * 16 * 4 + 64 * 4
    assert told.kv_cache_bytes == 64 * a_block, "tokens, keys and values, heads, their size, bytes; and a hidden state"
    cache = {"num_gpu_blocks_override": None, "kv_cache_memory_bytes": 2**20}
    alone, both = make(None, cache=cache).info, make("eagle3", cache=cache).info
    assert both.num_blocks == 2**20 // (alone.kv_cache_bytes // alone.num_blocks + a_block) < alone.num_blocks
