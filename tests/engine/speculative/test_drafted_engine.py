"""Drafts change nothing but the number of steps: answers are those without, whatever the options, the drafts and the room."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from any_load import ARRIVALS, EOS, JSON, OPTIONS, Run, V, assert_same, play, requests_of
from drafted_engines import FreeCosts, alone, drafting_of, drafts_of, make_small
from engine_driver import request
from faulty_model import make_faulty
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headway.server.engine.core import EngineCore
from headway.server.types import FinishReason, GenerateRequest

NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1}


class Oracle:
    """Proposes what will come, of each request that was told of, and now and then something else."""

    def __init__(self, share_right: float) -> None:
        self.answers: dict[str, list[int]] = {}  # prompt and output
        self._rng = random.Random(0)
        self._share_right = share_right

    def propose(self, request_id: str, token_ids: Sequence[int], num_drafts: int) -> list[int]:
        known = self.answers[request_id]
        right = known[len(token_ids) : len(token_ids) + self._rng.randint(0, num_drafts)]
        return [token if self._rng.random() < self._share_right else self._rng.randrange(3, V) for token in right]

    def forget(self, request_id: str) -> None:
        pass


def make(**given: Any) -> EngineCore:
    return make_small(speculative=NGRAM, **given)


@cache
def _drafted(num_blocks: int, chunk: int) -> EngineCore:
    return make(num_blocks=num_blocks, max_num_batched_tokens=chunk, max_num_seqs=5)


def tell(engine: EngineCore, requests: list[GenerateRequest], expected: Run, share_right: float) -> None:
    oracle = Oracle(share_right)
    oracle.answers = {one.request_id: [*one.prompt_token_ids, *expected.tokens[one.request_id]] for one in requests}
    drafting_of(engine)._proposer = oracle


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    arrivals=st.lists(ARRIVALS, min_size=1, max_size=8),
    num_blocks=st.sampled_from([14, 40]),
    chunk=st.sampled_from([6, 64]),
    share_right=st.sampled_from([0.3, 0.8, 1.0]),
)
def test_any_load_gives_the_same_tokens(arrivals: list[dict[str, Any]], num_blocks: int, chunk: int, share_right: float) -> None:
    requests, engine = requests_of(arrivals), _drafted(num_blocks, chunk)
    expected = alone(requests)
    tell(engine, requests, expected, share_right)
    assert_same(play(engine, arrivals, requests), expected)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options)) or "greedy")
def test_drafts_that_are_right_save_steps_with_any_option(options: dict[str, Any]) -> None:
    one = request("r", [5, 6, 7], max_tokens=24, ignore_eos="grammar" not in options, eos_token_ids=(EOS,), **options)
    engine = make()
    tell(engine, [one], expected := alone([one]), 1.0)
    engine.add_request(one)
    assert_same(Run().finish(engine), expected)
    drafts, num_tokens = drafts_of(engine), len(expected.tokens["r"])
    assert drafts.num_draft_tokens - drafts.num_accepted_tokens <= 1, "an answer's last token may have no room behind it"
    assert engine.stats().num_steps + drafts.num_accepted_tokens <= num_tokens + 1
    assert drafts.num_accepted_tokens >= num_tokens // 4


def test_the_loads_preempt_while_drafts_are_made() -> None:
    engine = _drafted(14, 64)
    requests = [request(f"r{i}", [i + 3] * 9, max_tokens=24, ignore_eos=True) for i in range(4)]
    tell(engine, requests, expected := alone(requests), 0.8)
    before, drafts = engine.stats().num_preemptions, drafts_of(engine).num_accepted_tokens
    for one in requests:
        engine.add_request(one)
    assert_same(Run().finish(engine), expected)
    assert engine.stats().num_preemptions > before
    assert drafts_of(engine).num_accepted_tokens > drafts


def test_what_drafts_have_filled_is_found_by_the_next_request() -> None:
    one = request("r", list(range(3, 12)), max_tokens=20, ignore_eos=True)
    engine = make()
    tell(engine, [one], expected := alone([one]), 1.0)
    engine.add_request(one)
    Run().finish(engine)
    again = request("again", [*one.prompt_token_ids, *expected.tokens["r"]], max_tokens=4, ignore_eos=True)
    tell(engine, [again], continued := alone([again]), 1.0)
    engine.add_request(again)
    run = Run().finish(engine)
    assert_same(run, continued)
    assert run.ends["again"].num_cached_tokens == 28, "all full blocks of the 28 tokens that were computed"


def test_a_token_that_stops_drops_the_drafts_behind_it() -> None:
    free = request("r", [5, 6, 7], max_tokens=12, ignore_eos=True)
    tokens = alone([free]).tokens["r"]
    stop = next(token for at, token in enumerate(tokens) if at >= 2 and token not in tokens[:at])
    one = request("r", [5, 6, 7], max_tokens=12, stop_token_ids=(stop,))
    engine = make()
    tell(engine, [one], alone([free]), 1.0)
    engine.add_request(one)
    run = Run().finish(engine)
    assert run.tokens["r"] == tokens[: tokens.index(stop) + 1]
    assert run.ends["r"].finish_reason is FinishReason.STOP
    assert drafts_of(engine).num_draft_tokens >= len(run.tokens["r"]), "one was behind it"


def test_an_answer_may_end_with_its_grammar_behind_a_draft() -> None:
    one = request("r", [5, 6], max_tokens=30, temperature=1.0, seed=8, grammar=JSON, eos_token_ids=(EOS,))
    engine = make()
    tell(engine, [one], expected := alone([one]), 1.0)
    engine.add_request(one)
    run = Run().finish(engine)
    assert_same(run, expected)
    assert run.ends["r"].finish_reason is FinishReason.STOP
    assert drafts_of(engine).num_draft_tokens == len(run.tokens["r"]) - 1, "what ends it stands behind the last of them"


def test_a_draft_that_breaks_the_step_ends_its_request_only() -> None:
    requests = [request(f"r{i}", [5 + i, 6, 7], max_tokens=8, ignore_eos=True) for i in range(3)]
    expected = alone(requests)
    bad = next(token for token in range(3, V) if all(token not in tokens for tokens in expected.tokens.values()))
    engine = make()
    tell(engine, requests, expected, 1.0)
    drafting_of(engine)._proposer.answers["r0"][5:] = [bad] * 6  # type: ignore[attr-defined]
    make_faulty(engine, bad)
    for one in requests:
        engine.add_request(one)
    run = Run().finish(engine)
    assert "a kernel refused this token" in str(run.ends["r0"].error)
    for name in ("r1", "r2"):
        assert run.tokens[name] == expected.tokens[name]


def test_what_was_said_before_is_looked_up() -> None:
    engine = make()
    one = request("r", [5, 6, 7, 8] * 6, max_tokens=20, ignore_eos=True, logit_bias={5: 99.0})
    engine.add_request(one)
    run = Run().finish(engine)
    assert run.tokens["r"] == [5] * 20
    assert engine.stats().num_steps <= 12, "after [5, 5] more of the same is expected, three at a time"


def test_possible_drafts_are_looked_at_once_a_step_where_all_are_found() -> None:
    """Of 256 requests that takes half a millisecond."""

    class Asked(FreeCosts):
        num_plain = 0

        def seconds(self, num_tokens: int) -> float:
            self.num_plain += num_tokens == 2  # without drafts: the rule begins with that
            return super().seconds(num_tokens)

    class Found:
        def propose(self, request_id: str, token_ids: Sequence[int], num_drafts: int) -> list[int]:
            return [3] * num_drafts

        def forget(self, request_id: str) -> None:
            pass

    engine, costs = make(), Asked()
    drafting = drafting_of(engine)
    drafting._costs, drafting._proposer = costs, Found()  # type: ignore[assignment]
    for i in range(2):
        engine.add_request(request(f"r{i}", [5, 6, 7], max_tokens=9, ignore_eos=True, logit_bias={3: -99.0}))
    Run().finish(engine)
    assert drafts_of(engine).num_drafts >= 12
    assert costs.num_plain <= engine.stats().num_steps
