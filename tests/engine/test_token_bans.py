"""Allowed token ids and bad words: what may be chosen, whatever rows come, go and are preempted."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling import sample

from headway.server.engine.sampler import SamplingState
from headway.server.types import SamplingParams

V = 9
CPU = torch.device("cpu")


def banned(sampling: SamplingParams, output: list[int]) -> set[int]:
    """From the definitions."""
    allowed = range(V) if sampling.allowed_token_ids is None else sampling.allowed_token_ids
    words = [list(word) for word in sampling.bad_words]
    by_words = {word[-1] for word in words if output[len(output) - len(word) + 1 :] == word[:-1] and len(word) <= len(output) + 1}
    return (set(range(V)) - set(allowed)) | by_words


word = st.lists(st.integers(0, V - 1), min_size=1, max_size=3).map(tuple)


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    options=st.lists(
        st.tuples(st.none() | st.lists(st.integers(0, V - 1), min_size=2, unique=True).map(tuple), st.lists(word, max_size=6).map(tuple)),
        min_size=1,
        max_size=5,
    ),
)
def test_every_step_bans_what_a_recount_bans(
    data: st.DataObject, options: list[tuple[tuple[int, ...] | None, tuple[tuple[int, ...], ...]]]
) -> None:
    """With mixed rows, other rows in each step, and preemption: a row is removed and comes back elsewhere with its tokens."""
    samplings = [SamplingParams(temperature=0.0, allowed_token_ids=allowed, bad_words=words) for allowed, words in options]
    state, prompt = SamplingState(2 * len(samplings), V, CPU), [1, 2]
    rows, outputs = list(range(len(samplings))), [[] for _ in samplings]  # type: ignore[var-annotated]
    for row, sampling in zip(rows, samplings, strict=True):
        state.add(row, sampling, prompt, len(prompt))
    for _ in range(6):
        here = data.draw(st.lists(st.sampled_from(range(len(samplings))), unique=True, min_size=1))
        logits = torch.randn(len(here), V, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
        before = logits.clone()
        sampled = sample(state, logits, [rows[i] for i in here])
        for k, i in enumerate(here):
            bans = banned(samplings[i], outputs[i])
            expected = [-math.inf if token in bans else before[k, token].item() for token in range(V)]
            assert logits[k].tolist() == expected
            assert (k in sampled.errors) == (len(bans) == V)
            if k not in sampled.errors:
                assert sampled.token_ids[k] == expected.index(max(expected))
                outputs[i].append(sampled.token_ids[k])
                state.append([rows[i]], sampled.token_ids[k : k + 1])
        for i in data.draw(st.lists(st.sampled_from(range(len(samplings))), unique=True)):
            state.remove(rows[i])
            rows[i] = next(row for row in range(2 * len(samplings)) if row not in rows[:i] + rows[i + 1 :])
            state.add(rows[i], samplings[i], prompt + outputs[i], len(prompt))


def test_nothing_lifts_a_ban_and_nothing_left_is_the_requests_own_fault() -> None:
    state = SamplingState(2, V, CPU)
    state.add(0, SamplingParams(temperature=0.0, allowed_token_ids=(3, 4), bad_words=((4,),), logit_bias={5: 100.0, 4: 100.0}), [0], 1)
    state.add(1, SamplingParams(temperature=0.0, allowed_token_ids=(3,), bad_words=((3,),)), [0], 1)
    sampled = sample(state, torch.zeros(2, V), [0, 1])
    assert sampled.token_ids == [3, -1]
    assert sampled.errors[1].text == "The request's allowed_token_ids and bad_words leave no token to choose; it ends here."
    assert sampled.errors[1].is_request_fault


def test_a_broken_model_is_not_the_requests_fault() -> None:
    state = SamplingState(1, V, CPU)
    state.add(0, SamplingParams(temperature=0.0, allowed_token_ids=(3,)), [0], 1)
    assert not sample(state, torch.full((1, V), math.nan), [0]).errors[0].is_request_fault


def test_the_prompt_does_not_begin_a_bad_word_and_other_vocabularies_do_no_harm() -> None:
    state = SamplingState(1, V, CPU)
    state.add(0, SamplingParams(temperature=0.0, allowed_token_ids=(3, V + 4), bad_words=((1, 3), (V,), (V + 1, 3))), [1], 1)
    assert sample(state, torch.zeros(1, V), [0]).token_ids == [3]


@pytest.mark.parametrize("ids", [(5,), (7, 2, 5), (V - 1, 0, V + 3)])
def test_logprobs_of_asked_tokens(ids: tuple[int, ...]) -> None:
    state = SamplingState(3, V, CPU)
    state.add(0, SamplingParams(temperature=0.0, logprobs=0, logprob_token_ids=ids), [0], 1)
    state.add(1, SamplingParams(temperature=0.0, logprobs=2), [0], 1)
    state.add(2, SamplingParams(temperature=0.0), [0], 1)
    logits = torch.randn(3, V, generator=torch.Generator().manual_seed(4))
    own = torch.log_softmax(logits.double(), -1)
    asked, likeliest, none = sample(state, logits, [0, 1, 2]).logprobs
    known = sorted((token for token in ids if token < V), key=lambda token: -own[0, token].item())
    assert asked is not None
    assert [token for token, _ in asked.top] == known
    assert [value for _, value in asked.top] == pytest.approx([own[0, token].item() for token in known], abs=1e-5)
    assert asked.rank == 1
    assert likeliest is not None
    assert [token for token, _ in likeliest.top] == own[1].topk(2).indices.tolist()
    assert none is None
