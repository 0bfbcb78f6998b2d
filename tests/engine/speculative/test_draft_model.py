"""A small model drafts: it changes nothing but the number of steps, and computes what the large one does."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from any_load import ARRIVALS, EOS, OPTIONS, Run, V, assert_same, play, requests_of
from drafted_engines import FreeCosts, alone, drafting_of, drafts_of, files, make_small
from engine_driver import add_adapter, make_engine, request
from faulty_model import FaultyModel, make_faulty
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from plain_recorder import PlainRecorder, use_plain_graphs
from tiny_adapters import make_adapter
from tiny_models import make_tiny_model

from headway.server.engine import model_rank
from headway.server.engine.core import EngineCore
from headway.server.errors import ConfigError
from headway.server.loading.model_config import read_config
from headway.server.source.files import ModelFiles
from headway.server.types import AdapterRef, GenerateRequest

ASKED = {"model": "small", "num_speculative_tokens": 3}


@cache
def other_files() -> ModelFiles:
    """Other weights of another shape: its guesses are hardly ever right."""
    return make_tiny_model("qwen3", Path(mkdtemp()), seed=7, vocab_size=V, num_hidden_layers=1)


def make(draft_files: ModelFiles, *, num_blocks: int = 64, **scheduler: Any) -> EngineCore:
    return make_small(speculative=ASKED, draft_files=draft_files, num_blocks=num_blocks, **scheduler)


def finish(engine: EngineCore, requests: list[GenerateRequest]) -> tuple[Run, int, int]:
    """(the run, tokens drafted in it, those that were right)."""
    before = drafts_of(engine)
    for one in requests:
        engine.add_request(one)
    run, after = Run().finish(engine), drafts_of(engine)
    return run, after.num_draft_tokens - before.num_draft_tokens, after.num_accepted_tokens - before.num_accepted_tokens


@pytest.mark.parametrize("options", OPTIONS[:4], ids=lambda options: "-".join(map(str, options)) or "greedy")
def test_a_draft_model_with_the_same_weights_is_right_wherever_the_likeliest_token_is_chosen(options: dict[str, Any]) -> None:
    one = request("r", [5, 6, 7], max_tokens=25, ignore_eos=True, eos_token_ids=(EOS,), **options)
    engine = make(files())
    run, num_drafted, num_right = finish(engine, [one])
    assert_same(run, alone([one]))
    if one.sampling.temperature == 0:
        assert num_right == num_drafted == 18, "24 tokens behind the first come in six steps"
        assert engine.stats().num_steps == 7


@cache
def _drafted(num_blocks: int, chunk: int, is_same: bool) -> EngineCore:
    return make(files() if is_same else other_files(), num_blocks=num_blocks, max_num_batched_tokens=chunk, max_num_seqs=5)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    arrivals=st.lists(ARRIVALS, min_size=1, max_size=8),
    num_blocks=st.sampled_from([14, 40]),
    chunk=st.sampled_from([6, 64]),
    is_same=st.booleans(),
)
def test_any_load_gives_the_same_tokens(arrivals: list[dict[str, Any]], num_blocks: int, chunk: int, is_same: bool) -> None:
    requests = requests_of(arrivals)
    assert_same(play(_drafted(num_blocks, chunk, is_same), arrivals, requests), alone(requests))


def test_chunks_prefix_hits_and_preemption_leave_the_draft_model_what_it_needs() -> None:
    """All is right, as long as its pages hold what the large model's do."""
    engine = _drafted(14, 6, True)
    requests = [request(f"r{i}", [i + 3] * 9, max_tokens=24, ignore_eos=True) for i in range(4)]
    preemptions, hits = engine.stats().num_preemptions, engine.stats().prefix_cache_hits
    run, num_drafted, num_right = finish(engine, requests)
    assert_same(run, expected := alone(requests))
    assert engine.stats().num_preemptions > preemptions
    assert num_right == num_drafted > 20
    again = request("again", [*requests[0].prompt_token_ids, *expected.tokens["r0"][:16]], max_tokens=8, ignore_eos=True)
    finish(engine, [again])
    once_more = request("once more", again.prompt_token_ids, max_tokens=8, ignore_eos=True)
    run, num_drafted, num_right = finish(engine, [once_more])
    assert_same(run, alone([once_more]))
    assert engine.stats().prefix_cache_hits >= hits + 24
    assert num_right == num_drafted >= 5


def test_drafts_that_are_wrong_leave_no_trace() -> None:
    requests = [request(f"r{i}", [5 + i, 6, 7], max_tokens=20, ignore_eos=True) for i in range(3)]
    engine = make(other_files())
    run, num_drafted, num_right = finish(engine, requests)
    assert_same(run, alone(requests))
    assert num_drafted > 20
    assert num_right < num_drafted // 2


@pytest.mark.parametrize("is_draft_model", [False, True])
def test_a_request_that_breaks_either_model_ends_alone(is_draft_model: bool) -> None:
    requests = [request(f"r{i}", [5 + i, 6, 7], max_tokens=8, ignore_eos=True) for i in range(3)]
    expected = alone(requests)
    bad = next(token for token in range(20, V) if all(token not in tokens for tokens in expected.tokens.values()))
    engine = make(files())
    if is_draft_model:
        make_draft_model_faulty(engine, bad)
    else:
        make_faulty(engine, bad)
    run, _, _ = finish(engine, [request("bad", [bad, 6, 7], max_tokens=8), *requests])
    assert "a kernel refused this token" in str(run.ends["bad"].error)
    for one in requests:
        assert run.tokens[one.request_id] == expected.tokens[one.request_id]


def test_a_draft_model_that_computes_nothing_any_more_ends_the_engine() -> None:
    engine = make(files())
    make_draft_model_faulty(engine, None)
    engine.add_request(request("r", [5, 6, 7]))
    with pytest.raises(RuntimeError, match="a kernel refused this token"):
        engine.step()


def make_draft_model_faulty(engine: EngineCore, bad_token: int | None) -> None:
    resident = engine._executor._worker.runner._drafter._resident  # type: ignore[attr-defined]
    resident.give_model(FaultyModel(resident.model, bad_token))


def test_decode_steps_of_both_models_replay_their_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The draft model's for a token a row, the large one's for drafts too."""
    recorders = [use_plain_graphs(monkeypatch, sizes=(1, 2, 4, 8)), PlainRecorder()]
    making = iter(recorders)
    monkeypatch.setattr(model_rank, "CudaRecorder", lambda device: next(making))
    requests = [request(f"r{i}", [5 + i, 6, 7], max_tokens=13, ignore_eos=True) for i in range(2)]
    run, num_drafted, num_right = finish(make(files()), requests)
    assert_same(run, alone(requests))
    assert num_right == num_drafted > 0
    large, small = (set(recorder.replays) for recorder in recorders)
    assert 8 in large
    assert small == {2}


def test_requests_with_an_adapter_are_drafted_for_without_it(tmp_path: Path) -> None:
    adapter = AdapterRef(1, "a", str(make_adapter(tmp_path, read_config(files()))))
    one = replace(request("r", [5, 6, 7], max_tokens=12, ignore_eos=True), adapter_id=1)
    topics: dict[str, Any] = {"model": {"max_model_len": 48}, "lora": {"enable_lora": True}}
    plain = make_engine(files(), **topics)
    drafted = make_engine(files(), draft_files=files(), speculative={"speculative_config": ASKED}, **topics)
    drafting_of(drafted)._costs = FreeCosts()  # type: ignore[assignment]
    runs = []
    for engine in (plain, drafted):
        add_adapter(engine, adapter)
        engine.add_request(one)
        runs.append(Run().finish(engine))
    assert_same(*runs)
    drafts = drafts_of(drafted)
    assert drafts.num_draft_tokens > drafts.num_accepted_tokens, "what is drafted without the adapter is not what comes with it"


def test_its_memory_is_planned_and_told() -> None:
    engine = make(other_files())
    drafts = engine.info.draft_model
    assert drafts is not None
    assert (drafts.name, drafts.architecture) == (other_files().name, "qwen3")
    assert drafts.kv_cache_bytes == 64 * 4 * 1 * 2 * 2 * 24 * 4, "blocks, tokens, layers, keys and values, heads, their size, bytes"
    small = {"max_model_len": 48, "dtype": "float32"}
    cache = {"kv_cache_memory_bytes": 2**20, "block_size": 4}
    topics = {"model": small, "cache": cache}
    plain = make_engine(files(), **topics).info
    both = make_engine(files(), draft_files=other_files(), speculative={"speculative_config": ASKED}, **topics).info
    assert both.draft_model is not None
    per_block = plain.kv_cache_bytes // plain.num_blocks + both.draft_model.kv_cache_bytes // both.num_blocks
    assert both.num_blocks == 2**20 // per_block < plain.num_blocks


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ({"vocab_size": V + 1}, f"has {V + 1} tokens in its vocabulary, and the model {V}: name one of the same family"),
        ({"vocab_size": V, "max_position_embeddings": 32}, "was made for 32 tokens, and the context has 48: set --max-model-len 32"),
    ],
)
def test_a_model_that_cannot_draft_is_refused_before_it_is_loaded(tmp_path: Path, shape: dict[str, int], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make(make_tiny_model("llama", tmp_path, seed=1, num_hidden_layers=1, **shape))
