"""Steps that are begun before the one before has been looked at give the same tokens as steps in turn, whatever happens meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from engine_driver import make_engine, request
from faulty_model import make_faulty
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import make_tiny_model
from tiny_tokenizers import byte_level_tokenizer

from headway.server.engine.core import EngineCore
from headway.server.source.files import ModelFiles
from headway.server.text.grammars.library import library_form
from headway.server.types import FinishReason, GenerateRequest, Grammar, TokenDelta, TokenLogprobs

V = 264
TOKENIZER = byte_level_tokenizer()
EOS = TOKENIZER.eos_token_ids[0]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
JSON = Grammar("checked", library_form(Grammar("json_schema", json.dumps(SCHEMA)), {}))

# Options whose next token depends on those before it in every way that there is.
OPTIONS: list[dict[str, Any]] = [
    {},
    {"logprobs": 2},
    {"prompt_logprobs": 1, "logprobs": 0},
    {"temperature": 1.0, "seed": 3},
    {"temperature": 0.8, "top_p": 0.9, "seed": 4, "min_tokens": 5},
    {"presence_penalty": 1.5, "frequency_penalty": 0.5, "repetition_penalty": 1.3},
    {"bad_words": tuple((a, b) for a in range(0, V, 3) for b in range(1, V, 7))},
    {"logit_bias": {7: 4.0, EOS: 3.0}, "min_tokens": 3, "logprobs": 1, "logprob_token_ids": (7, EOS)},
    {"temperature": 1.0, "seed": 5, "grammar": JSON},
    {"temperature": 1.0, "seed": 6, "grammar": JSON, "presence_penalty": 1.0, "logprobs": 1},
]


@cache
def files() -> ModelFiles:
    return make_tiny_model("llama", Path(mkdtemp()), seed=1, vocab_size=V, num_hidden_layers=2)


def make(overlaps: bool, num_blocks: int = 64, **scheduler: Any) -> EngineCore:
    return make_engine(
        files(),
        load_tokenizer=lambda: TOKENIZER,
        model={"max_model_len": 48},
        cache={"num_gpu_blocks_override": num_blocks, "block_size": 4},
        scheduler={"async_scheduling": overlaps, **scheduler},
    )


@pytest.fixture
def engine() -> Iterator[EngineCore]:
    built = make(overlaps=True)
    yield built
    built.shutdown()


@dataclass
class Run:
    """What came of each request of a load, in the loop of engine/process.py."""

    tokens: dict[str, list[int]] = field(default_factory=dict)
    logprobs: dict[str, list[TokenLogprobs]] = field(default_factory=dict)
    ends: dict[str, TokenDelta] = field(default_factory=dict)

    def turn(self, engine: EngineCore) -> list[TokenDelta]:
        deltas = engine.step().deltas if engine.has_work else []
        for delta in deltas:
            assert delta.request_id not in self.ends, "nothing may follow the terminal delta"
            self.tokens.setdefault(delta.request_id, []).extend(delta.token_ids)
            self.logprobs.setdefault(delta.request_id, []).extend(delta.logprobs or [])
            if delta.finish_reason is not None:
                self.ends[delta.request_id] = delta
        engine.settle()
        engine._scheduler.check()  # type: ignore[attr-defined]
        return deltas

    def finish(self, engine: EngineCore) -> Run:
        while engine.has_work or engine.awaits_grammars:
            self.turn(engine)
        engine.check_idle()
        assert engine.stats().num_blocks_used == 0
        return self


def alone(requests: list[GenerateRequest]) -> Run:
    """Steps in turn, and room for everyone."""
    run, engine = Run(), _in_turn()
    for one in requests:
        engine.add_request(one)
    return run.finish(engine)


@cache
def _in_turn() -> EngineCore:
    return make(overlaps=False)


@cache
def _overlapped(num_blocks: int, chunk: int) -> EngineCore:
    return make(True, num_blocks, max_num_batched_tokens=chunk, max_num_seqs=5)


def assert_logprobs_equal(left: list[TokenLogprobs], right: list[TokenLogprobs]) -> None:
    assert [(e.token_id, e.rank, [t for t, _ in e.top]) for e in left] == [(e.token_id, e.rank, [t for t, _ in e.top]) for e in right]
    assert [e.logprob for e in left] == pytest.approx([e.logprob for e in right], abs=1e-4)


_arrivals = st.fixed_dictionaries(
    {
        "prompt": st.lists(st.integers(3, 255), min_size=1, max_size=20),
        "options": st.sampled_from(OPTIONS),
        "max_tokens": st.integers(1, 24),
        "stop_token_ids": st.sampled_from([(), tuple(range(3, V, 9))]),
        "wait": st.integers(0, 3),  # turns after the one before
        "abort_after": st.sampled_from([None, None, None, 1, 2, 5]),  # turns
    }
)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(arrivals=st.lists(_arrivals, min_size=1, max_size=8), num_blocks=st.sampled_from([14, 40]), chunk=st.sampled_from([6, 64]))
def test_any_load_gives_the_same_tokens(arrivals: list[dict[str, Any]], num_blocks: int, chunk: int) -> None:
    requests = [
        request(
            f"r{i}",
            one["prompt"],
            eos_token_ids=(EOS,),
            max_tokens=one["max_tokens"],
            stop_token_ids=() if "grammar" in one["options"] else one["stop_token_ids"],
            **one["options"],
        )
        for i, one in enumerate(arrivals)
    ]
    expected = alone(requests)
    engine, run = _overlapped(num_blocks, chunk), Run()
    aborts: dict[int, list[str]] = {}
    turn = 0
    for one, arriving in zip(arrivals, requests, strict=True):
        for _ in range(one["wait"]):
            engine.abort(aborts.pop(turn, []))
            run.turn(engine)
            turn += 1
        engine.add_request(arriving)
        if one["abort_after"] is not None:
            aborts.setdefault(turn + one["abort_after"], []).append(arriving.request_id)
    while aborts:
        engine.abort(aborts.pop(turn, []))
        run.turn(engine)
        turn += 1
    run.finish(engine)
    assert run.ends.keys() == expected.ends.keys()
    for name, end in run.ends.items():
        got, whole = run.tokens[name], expected.tokens[name]
        if end.finish_reason is FinishReason.ABORT:
            assert got == whole[: len(got)]
        else:
            assert (got, end.finish_reason, end.stop_reason) == (whole, expected.ends[name].finish_reason, expected.ends[name].stop_reason)
            assert_logprobs_equal(run.logprobs[name], expected.logprobs[name])


def test_the_loads_preempt() -> None:
    engine = _overlapped(14, 64)
    requests = [request(f"r{i}", [i + 3] * 9, max_tokens=24, ignore_eos=True) for i in range(4)]
    for one in requests:
        engine.add_request(one)
    before = engine.stats().num_preemptions
    run = Run().finish(engine)
    assert engine.stats().num_preemptions > before
    assert run.tokens == alone(requests).tokens


def test_a_step_is_begun_before_the_result_of_the_one_before_is_asked_for(engine: EngineCore, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    executor, scheduler = engine._executor, engine._scheduler
    submit, update = executor.submit, scheduler.update

    def watched_submit(plan: Any) -> Any:
        events.append("begin")
        return submit(plan)

    def watched_update(plan: Any, result: Any) -> Any:
        events.append("end")
        return update(plan, result)

    monkeypatch.setattr(executor, "submit", watched_submit)
    monkeypatch.setattr(scheduler, "update", watched_update)
    engine.add_request(request("a", [5, 6], max_tokens=4, ignore_eos=True))
    run = Run()
    assert run.turn(engine) == [], "its token is on the way"
    assert [delta.request_id for delta in run.turn(engine)] == ["a"]
    run.finish(engine)
    assert events == ["begin", *["begin", "end"] * 3, "end"]
    assert engine.stats().num_steps == 4


def test_in_turn_a_token_comes_with_its_own_step() -> None:
    engine = _in_turn()
    engine.add_request(request("a", [5, 6], max_tokens=2, ignore_eos=True))
    run = Run()
    assert [len(delta.token_ids) for delta in run.turn(engine)] == [1]
    run.finish(engine)


def test_a_row_that_breaks_the_step_ahead_ends_alone(engine: EngineCore) -> None:
    """The token that breaks it was chosen by the step before and is known to nobody but the device when the step is begun."""
    requests = [request(f"r{i}", [5 + i, 6, 7], max_tokens=8, ignore_eos=True) for i in range(4)]
    expected = alone(requests).tokens
    at, bad_token = next(
        (at, token)
        for at, token in enumerate(expected["r0"][:-1])
        if at > 1 and token not in [*expected["r0"][:at], *expected["r1"], *expected["r2"], *expected["r3"]]
    )
    make_faulty(engine, bad_token)
    for one in requests:
        engine.add_request(one)
    run = Run().finish(engine)
    assert "a kernel refused this token" in str(run.ends["r0"].error)
    assert run.tokens["r0"] == expected["r0"][: at + 1], "what was chosen before is told"
    for name in ("r1", "r2", "r3"):
        assert (run.tokens[name], run.ends[name].finish_reason) == (expected[name], FinishReason.LENGTH)


def test_a_row_without_a_token_is_in_the_step_ahead_all_the_same(engine: EngineCore, caplog: pytest.LogCaptureFixture) -> None:
    good = request("good", [5, 6, 7], max_tokens=8, ignore_eos=True)
    bad = request("bad", [5, 6, 8], max_tokens=8, allowed_token_ids=(V + 5,))
    for one in (good, bad):
        engine.add_request(one)
    run = Run().finish(engine)
    assert "allowed_token_ids leave no token" in str(run.ends["bad"].error)
    assert run.tokens["good"] == alone([good]).tokens["good"]
    assert not caplog.records, "the step ahead has not broken"


def test_who_ends_while_its_step_is_under_way_may_come_again(engine: EngineCore) -> None:
    first, second = (request("a", prompt, max_tokens=6, ignore_eos=True) for prompt in ([5, 6], [9, 8, 7]))
    engine.add_request(first)
    run = Run()
    run.turn(engine)
    run.turn(engine)
    engine.abort(["a"])
    run.turn(engine)
    assert run.ends.pop("a").finish_reason is FinishReason.ABORT
    run.tokens.clear()
    engine.add_request(second)
    assert run.finish(engine).tokens == alone([second]).tokens


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_engine_falls_asleep_with_nothing_under_way(engine: EngineCore, level: int) -> None:
    requests = [request(f"r{i}", [5 + i, 6], max_tokens=12, ignore_eos=True) for i in range(3)]
    for one in requests:
        engine.add_request(one)
    run, answers = Run(), []
    for _ in range(4):
        run.turn(engine)
    engine.sleep(level, "keep", answers.append)
    engine.settle()
    assert answers == []
    run.turn(engine)
    assert answers == [None]
    assert run.turn(engine) == []
    assert {len(tokens) for tokens in run.tokens.values()} == {4}, "what was under way is told"
    assert not engine.has_work
    engine.wake_up(None)
    assert run.finish(engine).tokens == alone(requests).tokens


def test_the_end_of_the_process_waits_for_the_step_under_way(engine: EngineCore) -> None:
    engine.add_request(request("a", [5, 6], max_tokens=12, ignore_eos=True))
    run = Run()
    run.turn(engine)
    engine.abort_all()
    assert [delta.finish_reason for delta in run.turn(engine)] == [FinishReason.ABORT]
    assert not engine.has_work
