"""Loads of requests with every option, for engines that must give the same answers whatever they do to be faster."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from engine_driver import request
from hypothesis import strategies as st
from tiny_tokenizers import byte_level_tokenizer

from headway.server.engine.core import EngineCore
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


def assert_logprobs_equal(left: list[TokenLogprobs], right: list[TokenLogprobs]) -> None:
    assert [(e.token_id, e.rank, [t for t, _ in e.top]) for e in left] == [(e.token_id, e.rank, [t for t, _ in e.top]) for e in right]
    assert [e.logprob for e in left] == pytest.approx([e.logprob for e in right], abs=1e-4)


ARRIVALS = st.fixed_dictionaries(
    {
        "prompt": st.lists(st.integers(3, 255), min_size=1, max_size=20),
        "options": st.sampled_from(OPTIONS),
        "max_tokens": st.integers(1, 24),
        "stop_token_ids": st.sampled_from([(), tuple(range(3, V, 9))]),
        "wait": st.integers(0, 3),  # turns after the one before
        "abort_after": st.sampled_from([None, None, None, 1, 2, 5]),  # turns
    }
)


def requests_of(arrivals: list[dict[str, Any]]) -> list[GenerateRequest]:
    return [
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


def play(engine: EngineCore, arrivals: list[dict[str, Any]], requests: list[GenerateRequest]) -> Run:
    """The requests come and are aborted in the turns that ``arrivals`` say."""
    run = Run()
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
    return run.finish(engine)


def assert_same(run: Run, expected: Run) -> None:
    """But for what was aborted, which is a beginning."""
    assert run.ends.keys() == expected.ends.keys()
    for name, end in run.ends.items():
        got, whole = run.tokens[name], expected.tokens[name]
        if end.finish_reason is FinishReason.ABORT:
            assert got == whole[: len(got)]
        else:
            assert (got, end.finish_reason, end.stop_reason) == (whole, expected.ends[name].finish_reason, expected.ends[name].stop_reason)
            assert_logprobs_equal(run.logprobs[name], expected.logprobs[name])
