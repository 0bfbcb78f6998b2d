"""The core over a real tiny model: one bad request harms no other, and what leaves frees everything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_driver import make_engine, request, run
from faulty_model import make_faulty
from tiny_models import make_tiny_model

from headway.server.engine.core import EngineCore
from headway.server.source.files import ModelFiles
from headway.server.types import FinishReason


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return make_tiny_model("llama", Path(tmp_path_factory.mktemp("tiny")), seed=1)


@pytest.fixture
def engine(files: ModelFiles) -> Iterator[EngineCore]:
    built = make_engine(files, model={"max_model_len": 64}, cache={"num_gpu_blocks_override": 64, "block_size": 4})
    yield built
    built.shutdown()


def test_the_request_that_breaks_a_step_ends_alone(engine: EngineCore) -> None:
    good = [request(f"good{i}", [5 + i, 6, 7], max_tokens=5, ignore_eos=True) for i in range(3)]
    expected = {name: output.token_ids for name, output in run(engine, good).items()}
    bad_token = next(token for token in range(100, 200) if all(token not in tokens for tokens in expected.values()))
    make_faulty(engine, bad_token)
    for one in good:
        engine.add_request(one)
    engine.add_request(request("bad", [4, bad_token], max_tokens=5))
    tokens: dict[str, list[int]] = {}
    ends = {}
    while engine.has_work:
        for delta in engine.step().deltas:
            tokens.setdefault(delta.request_id, []).extend(delta.token_ids)
            if delta.finish_reason:
                assert delta.request_id not in ends
                ends[delta.request_id] = (delta.finish_reason, delta.error)
    reason, error = ends.pop("bad")
    assert reason == FinishReason.ERROR
    assert error is not None
    assert "a kernel refused this token" in error
    assert {name: tokens[name] for name in expected} == expected
    assert {end[0] for end in ends.values()} == {FinishReason.LENGTH}
    engine.check_idle()
    assert engine.stats().num_blocks_used == 0


def test_a_bad_request_alone_does_not_end_the_engine(engine: EngineCore) -> None:
    make_faulty(engine, 9)
    engine.add_request(request("bad", [9], max_tokens=3))
    (end,) = engine.step().deltas
    assert end.finish_reason == FinishReason.ERROR
    assert run(engine, [request("good", [8], max_tokens=2, ignore_eos=True)])["good"].finish_reason == FinishReason.LENGTH


def test_an_engine_that_can_run_nothing_raises_the_cause(engine: EngineCore) -> None:
    make_faulty(engine, None)
    for i in range(2):
        engine.add_request(request(f"r{i}", [9, i], max_tokens=3))
    with pytest.raises(RuntimeError, match="a kernel refused this token"):
        engine.step()


def test_abort_ends_once_and_frees(engine: EngineCore) -> None:
    engine.add_request(request("a", [1, 2, 3], max_tokens=40, ignore_eos=True))
    engine.add_request(request("b", [1, 2, 4], max_tokens=4, ignore_eos=True))
    engine.step()
    engine.abort(["a", "unknown"])
    engine.abort(["a"])
    ends = [d for d in engine.step().deltas if d.finish_reason]
    while engine.has_work:
        ends += [d for d in engine.step().deltas if d.finish_reason]
    assert sorted((d.request_id, d.finish_reason) for d in ends) == [("a", FinishReason.ABORT), ("b", FinishReason.LENGTH)]
    engine.check_idle()
    assert engine.stats().num_blocks_used == 0


def test_stats_count_steps_and_tokens(engine: EngineCore) -> None:
    run(engine, [request("a", [1, 2, 3], max_tokens=4, ignore_eos=True)])
    stats = engine.stats()
    assert stats.num_steps == 4
    assert stats.last_step_tokens == 1
    assert stats.last_step_s > 0
