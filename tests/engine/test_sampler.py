"""SamplingState: seeds, penalties across preemption, bias, min_tokens, logprobs, mixed batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_sampling import change_logits, distribution
from sampling import sample

from headway.server.engine import sampler
from headway.server.engine.draw import RandomRow
from headway.server.engine.sampler import SampledTokens, SamplingState
from headway.server.types import SamplingParams

V = 97
CPU = torch.device("cpu")


def logits_at(position: int, vocab_size: int = V, request: int = 0) -> torch.Tensor:
    """What a pretend model says at a position of a request's output: the same whenever it is asked."""
    return torch.randn(vocab_size, generator=torch.Generator().manual_seed(position * 1000 + request)) * 3


def generate(state: SamplingState, row: int, sampling: SamplingParams, length: int, request: int = 0) -> list[int]:
    state.add(row, sampling, [1, 2], 2)
    tokens: list[int] = []
    for position in range(length):
        tokens += sample(state, logits_at(position, request=request)[None], [row]).token_ids
        state.append([row], tokens[-1:])
    state.remove(row)
    return tokens


def once(sampling: SamplingParams, logits: torch.Tensor, token_ids: Sequence[int] = (0,), num_prompt_tokens: int = 1) -> SampledTokens:
    state = SamplingState(1, logits.shape[-1], CPU)
    state.add(0, sampling, token_ids, num_prompt_tokens)
    return sample(state, logits.clone().reshape(1, -1), [0])


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(),
        SamplingParams(temperature=1.7, min_p=0.05),
        SamplingParams(top_k=20),
        SamplingParams(top_p=0.8),
        SamplingParams(top_k=30, top_p=0.9, temperature=0.8),
    ],
)
def test_draws_follow_the_distribution(sampling: SamplingParams) -> None:
    """Chi-square over consecutive positions of one seeded request: 5,000 draws, within the 99.9% that chance gives."""
    logits, draws = logits_at(0) / 2, 5_000
    expected = distribution(logits.tolist(), sampling) * draws
    state = SamplingState(1, V, CPU, seed=11)
    state.add(0, sampling, [0], 1)
    tokens = []
    for _ in range(draws):
        tokens += sample(state, logits[None].clone(), [0]).token_ids
        state.append([0], tokens[-1:])
    observed = np.bincount(tokens, minlength=V)
    assert not observed[expected == 0].any()
    often = expected >= 5
    statistic = ((observed - expected)[often] ** 2 / expected[often]).sum()
    degrees = int(often.sum()) - 1
    assert statistic < degrees + 3.1 * np.sqrt(2 * degrees) + 6, (statistic, degrees)


def test_a_seed_gives_the_same_tokens_in_any_company() -> None:
    sampling = SamplingParams(temperature=1.0, top_p=0.95, seed=1234)
    alone = generate(SamplingState(8, V, CPU), 3, sampling, 12)
    state = SamplingState(8, V, CPU)
    others = [SamplingParams(), SamplingParams(temperature=0.0), SamplingParams(top_k=3), SamplingParams(presence_penalty=1.0, seed=9)]
    state.add(0, sampling, [5, 6, 7], 3)  # another row, another prompt
    tokens: list[int] = []
    for position in range(12):
        company = [1 + (position + i) % 7 for i in range(position % 5)]
        for i, row in enumerate(company):
            state.add(row, others[i % len(others)], [i], 1)
        rows = [*company, 0] if position % 2 else [0, *company]
        logits = torch.stack([logits_at(position) if row == 0 else logits_at(position, request=row) for row in rows])
        tokens.append(sample(state, logits, rows).token_ids[rows.index(0)])
        state.append([0], tokens[-1:])
        for row in company:
            state.remove(row)
    assert tokens == alone


def test_a_seed_goes_on_where_it_was_after_preemption() -> None:
    sampling = SamplingParams(seed=-7)
    whole = generate(SamplingState(2, V, CPU), 0, sampling, 9)
    for cut in range(9):
        state = SamplingState(2, V, CPU)
        state.add(1, sampling, [1, 2, *whole[:cut]], 2)
        assert sample(state, logits_at(cut)[None], [1]).token_ids == [whole[cut]]


def test_seeds_differ_and_the_servers_seed_repeats() -> None:
    def four(state: SamplingState) -> list[list[int]]:
        return [generate(state, 0, SamplingParams(temperature=2.0), 10) for _ in range(4)]

    first, again, unseeded = four(SamplingState(1, V, CPU, seed=3)), four(SamplingState(1, V, CPU, seed=3)), four(SamplingState(1, V, CPU))
    assert first == again
    assert len({tuple(tokens) for tokens in first + unseeded}) == 8
    seeded = [generate(SamplingState(1, V, CPU), 0, SamplingParams(temperature=2.0, seed=seed), 10) for seed in (0, 1, 3, 2**63 - 1)]
    assert len({tuple(tokens) for tokens in seeded + first}) == 8


def test_sampling_again_without_append_gives_the_same() -> None:
    state = SamplingState(1, V, CPU)
    state.add(0, SamplingParams(seed=5), [0], 1)
    assert sample(state, logits_at(0)[None], [0]) == sample(state, logits_at(0)[None], [0])


tokens_strategy = st.lists(st.integers(0, 14), max_size=12)
number = st.sampled_from([0.0, 0.6, -1.5, 2.0])


@settings(max_examples=80, deadline=None)
@given(
    data=st.data(),
    prompts=st.lists(st.lists(st.integers(0, 14), min_size=1, max_size=8), min_size=1, max_size=7),
    seed=st.integers(0, 2**31),
)
def test_changed_logits_equal_a_naive_recount(data: st.DataObject, prompts: list[list[int]], seed: int) -> None:
    """Rows come, generate, are preempted (removed and added again elsewhere) and each time the recount agrees."""
    vocab_size, generator = 15, torch.Generator().manual_seed(seed)
    samplings = [
        SamplingParams(
            temperature=0.0,
            presence_penalty=data.draw(number),
            frequency_penalty=data.draw(number),
            repetition_penalty=data.draw(st.sampled_from([1.0, 1.3, 0.7])),
            logit_bias=data.draw(st.dictionaries(st.integers(0, 14), st.floats(-5, 5), max_size=3)),
            min_tokens=data.draw(st.integers(0, 4)),
            eos_token_ids=(2,),
            stop_token_ids=(7, 99),
            ignore_eos=data.draw(st.booleans()),
        )
        for _ in prompts
    ]
    state, outputs, rows = SamplingState(2 * len(prompts), vocab_size, CPU), [[] for _ in prompts], list(range(len(prompts)))
    for i, prompt in enumerate(prompts):
        state.add(rows[i], samplings[i], prompt, len(prompt))
    for _ in range(4):
        here = data.draw(st.lists(st.sampled_from(range(len(prompts))), unique=True, min_size=1))
        logits = torch.randn(len(here), vocab_size, generator=generator)
        expected = [change_logits(logits[k].tolist(), samplings[i], prompts[i], outputs[i]) for k, i in enumerate(here)]
        chosen = sample(state, logits, [rows[i] for i in here]).token_ids
        np.testing.assert_allclose(logits.numpy(), np.array(expected), rtol=1e-5, atol=1e-5)
        assert chosen == logits.argmax(-1).tolist()
        state.append([rows[i] for i in here], chosen)
        for k, i in enumerate(here):
            outputs[i].append(chosen[k])
        for i in data.draw(st.lists(st.sampled_from(range(len(prompts))), unique=True)):
            state.remove(rows[i])
            rows[i] = next(row for row in range(2 * len(prompts)) if row not in rows[:i] + rows[i + 1 :])
            state.add(rows[i], samplings[i], prompts[i] + outputs[i], len(prompts[i]))


def test_rows_without_features_are_not_touched() -> None:
    state = SamplingState(3, V, CPU)
    state.add(0, SamplingParams(temperature=0.0), [1], 1)
    state.add(1, SamplingParams(temperature=0.0, presence_penalty=1.0, logit_bias={5: 2.0}), [1, 5], 1)
    state.add(2, SamplingParams(seed=1), [1], 1)
    logits = torch.stack([logits_at(i) for i in range(3)])
    before = logits.clone()
    sample(state, logits, [2, 1, 0])
    assert torch.equal(logits[[0, 2]], before[[0, 2]])
    assert logits[1, 5] == pytest.approx(before[1, 5].item() + 2.0 - 1.0)


def test_mixed_batch_gives_greedy_rows_their_argmax() -> None:
    state = SamplingState(6, V, CPU)
    for row in range(6):
        state.add(row, SamplingParams(temperature=0.0 if row % 2 else 1.5), [0], 1)
    logits = torch.stack([logits_at(i) for i in range(6)])
    greedy = logits.argmax(-1).tolist()
    assert sample(state, logits, list(range(6))).token_ids[1::2] == greedy[1::2]


def test_token_ids_outside_the_models_vocabulary_do_no_harm() -> None:
    sampling = SamplingParams(temperature=0.0, repetition_penalty=1.5, min_tokens=3, stop_token_ids=(V, 10**6))
    assert once(sampling, logits_at(0), [V + 5, 3, -1], 2).errors == {}
    bad = once(SamplingParams(logit_bias={V: 1.0}, logprobs=1), logits_at(0))
    assert bad.token_ids == [-1]
    assert bad.logprobs == [None]
    assert f"token id {V}," in bad.errors[0].text


def test_a_broken_row_ends_with_an_error_and_the_others_go_on() -> None:
    state = SamplingState(3, V, CPU)
    for row in range(3):
        state.add(row, SamplingParams(temperature=0.0, logprobs=2), [0], 1)
    logits = torch.stack([logits_at(i) for i in range(3)])
    expected = logits.argmax(-1).tolist()
    logits[1, 7] = torch.nan
    sampled = sample(state, logits, [0, 1, 2])
    assert sampled.token_ids == [expected[0], -1, expected[2]]
    assert list(sampled.errors) == [1]
    assert [entry is None for entry in sampled.logprobs] == [False, True, False]


def test_a_ban_on_every_token_is_said_so() -> None:
    sampling = SamplingParams(temperature=0.0, min_tokens=1, stop_token_ids=tuple(range(V)))
    error = once(sampling, logits_at(0)).errors[0]
    assert "min_tokens" in error.text
    assert error.is_request_fault


def test_a_ban_on_every_token_is_said_so_though_drawing_overwrites_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which its contract allows."""
    choose = sampler.choose_tokens

    def overwriting(logits: torch.Tensor, random_rows: Sequence[RandomRow]) -> torch.Tensor:
        chosen = choose(logits, random_rows)
        logits[[row.index for row in random_rows]] = 0.0
        return chosen

    monkeypatch.setattr(sampler, "choose_tokens", overwriting)
    error = once(SamplingParams(temperature=1.0, allowed_token_ids=(V,)), logits_at(0)).errors[0]
    assert "allowed_token_ids" in error.text
    assert error.is_request_fault


def test_logprobs_are_the_models_own() -> None:
    """Raw distribution: temperature, bias and filters change the choice, never the logprob that is reported."""
    logits = logits_at(3)
    own = torch.log_softmax(logits.double(), -1)
    order = own.argsort(descending=True)
    for num_top in (0, 3, -1):
        sampling = SamplingParams(temperature=0.5, top_k=4, logit_bias={11: 50.0}, presence_penalty=1.0, logprobs=num_top)
        sampled = once(sampling, logits, [1, 11], 1)
        entry = sampled.logprobs[0]
        assert sampled.token_ids == [11]
        assert entry is not None
        assert entry.token_id == 11
        assert entry.logprob == pytest.approx(own[11].item(), abs=1e-5)
        assert entry.rank == order.tolist().index(11) + 1
        width = V if num_top < 0 else num_top
        assert [token for token, _ in entry.top] == order[:width].tolist()
        assert [value for _, value in entry.top] == pytest.approx(own[order[:width]].tolist(), abs=1e-5)


def test_logprobs_only_for_the_rows_that_asked() -> None:
    state = SamplingState(4, V, CPU)
    wanted = [None, 0, 5, 2]
    for row, count in enumerate(wanted):
        state.add(row, SamplingParams(logprobs=count), [0], 1)
    sampled = sample(state, torch.stack([logits_at(i) for i in range(4)]), [0, 1, 2, 3])
    assert [None if entry is None else len(entry.top) for entry in sampled.logprobs] == wanted
    assert all(entry is None or entry.token_id == token for entry, token in zip(sampled.logprobs, sampled.token_ids, strict=True))
