"""Logits processors of the user: each shape has its effect, and one that fails ends its own request only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sampling import sample

from headway.server.config.server import ServerConfig
from headway.server.engine.processor_loading import load_processors
from headway.server.engine.sampler import SampledTokens, SamplingState
from headway.server.engine.user_processors import UserProcessors
from headway.server.errors import ConfigError
from headway.server.types import ProcessorChoice, SamplingParams

V = 11
CPU = torch.device("cpu")
ALL = ("ForceToken", "CountUp", "only_prompt_tokens", "never", "wrong_shape")


def state_with(*names: str) -> SamplingState:
    config = ServerConfig.model_validate({"extension": {"logits_processors": [f"user_processors:{name}" for name in names]}})
    return SamplingState(8, V, CPU, processors=UserProcessors(load_processors(config, CPU)))


def sampling(**options: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 0.0, **options})


def chosen(name: str, *args: Any) -> tuple[ProcessorChoice, ...]:
    return (ProcessorChoice(f"user_processors:{name}", list(args) or None),)


def step(state: SamplingState, rows: list[int]) -> SampledTokens:
    """The likeliest of row k is token 10 - k; what is sampled is kept."""
    logits = torch.arange(V, dtype=torch.float32).repeat(len(rows), 1)
    for line, row in enumerate(rows):
        logits[line, 10 - row] = 50.0
    sampled = sample(state, logits, rows)
    kept = [(row, token) for row, token in zip(rows, sampled.token_ids, strict=True) if token >= 0]
    state.append([row for row, _ in kept], [token for _, token in kept])
    return sampled


def test_each_shape_works_on_the_requests_that_ask_and_on_no_others() -> None:
    state = state_with(*ALL)
    state.add(0, sampling(extra_args={"force_token": 4}), [1, 2], 2)
    state.add(1, sampling(), [1, 2], 2)
    state.add(2, sampling(extra_args={"count_up": True}), [1, 2], 2)
    state.add(3, sampling(logits_processors=chosen("only_prompt_tokens")), [1, 2], 2)
    state.add(4, sampling(logits_processors=chosen("never", 6, 10)), [1, 2], 2)
    assert [step(state, [4, 2, 0, 1, 3]).token_ids for _ in range(3)] == [[9, k, 4, 9, 2] for k in range(3)]


def test_a_preempted_request_goes_on_where_it_was() -> None:
    state = state_with("CountUp")
    state.add(0, sampling(extra_args={"count_up": True}), [7, 7], 2)
    step(state, [0])
    state.remove(0)
    state.add(5, sampling(extra_args={"count_up": True}), [7, 7, 0], 2)
    assert [step(state, [5]).token_ids for _ in range(2)] == [[1], [2]]


def test_bans_hold_whatever_a_processor_returns() -> None:
    state = state_with("ForceToken")
    state.add(0, sampling(extra_args={"force_token": 4}, bad_words=((4,),)), [1], 1)
    error = step(state, [0]).errors[0]
    assert "bad_words" in error.text
    assert error.is_request_fault


def test_one_that_fails_ends_its_request_only() -> None:
    state = state_with(*ALL)
    state.add(0, sampling(extra_args={"force_token": 4, "break_at": 1}), [1], 1)
    state.add(1, sampling(), [1], 1)
    state.add(2, sampling(logits_processors=chosen("wrong_shape")), [1], 1)
    first = step(state, [0, 1, 2])
    assert first.token_ids == [4, 9, -1]
    assert "wrong_shape failed: TypeError: it must return the logits, a tensor of shape (11,), not (3,)" in first.errors[2].text
    second = step(state, [0, 1])
    assert second.token_ids == [-1, 9]
    assert second.errors[0].text == "The logits processor user_processors:ForceToken failed: RuntimeError: broken on purpose"
    assert not second.errors[0].is_request_fault


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"extra_args": {"force_token": "x"}}, "force_token must be a number"),
        ({"logits_processors": (ProcessorChoice("other"),)}, "there is none of this name; there are user_processors:never"),
        ({"logits_processors": chosen("never", "x")}, ""),
    ],
)
def test_what_a_request_asks_wrongly_is_its_own_fault(options: dict[str, Any], words: str) -> None:
    state = state_with("ForceToken", "never")
    state.add(0, sampling(**options), [1], 1)
    error = step(state, [0]).errors[0]
    assert words in error.text
    assert error.is_request_fault == bool(words)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("user_processors:NoProcessor", "a class needs new_req_logits_processor(params), or update_state(batch_update) and apply(logits)"),
        ("user_processors.CantBeMade", "it can't be made: RuntimeError: no licence"),
        ("user_processors:gone", "has no gone"),
        ("no_such_module_here:x", "there is no module no_such_module_here"),
    ],
)
def test_what_can_t_be_used_is_said_at_start(path: str, words: str) -> None:
    config = ServerConfig.model_validate({"extension": {"logits_processors": [path]}})
    with pytest.raises(ConfigError) as caught:
        load_processors(config, CPU)
    (problem,) = caught.value.problems
    assert problem.startswith("--logits-processors")
    assert words in problem
