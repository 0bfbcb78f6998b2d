"""Steps that are begun before the one before has been looked at give the same tokens as steps in turn, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from any_load import ARRIVALS, TOKENIZER, Run, V, assert_same, play, requests_of
from engine_driver import make_engine, request
from faulty_model import make_faulty
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import make_tiny_model

from headway.server.engine.core import EngineCore
from headway.server.source.files import ModelFiles
from headway.server.types import FinishReason, GenerateRequest


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


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(arrivals=st.lists(ARRIVALS, min_size=1, max_size=8), num_blocks=st.sampled_from([14, 40]), chunk=st.sampled_from([6, 64]))
def test_any_load_gives_the_same_tokens(arrivals: list[dict[str, Any]], num_blocks: int, chunk: int) -> None:
    requests = requests_of(arrivals)
    assert_same(play(_overlapped(num_blocks, chunk), arrivals, requests), alone(requests))


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
