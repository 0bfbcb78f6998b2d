"""Which drafts are kept, and that what is chosen beside them has the model's distribution."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from headway.server.engine.choice import Choose
from headway.server.engine.sampler import ChosenTokens, SampledTokens, SamplingState
from headway.server.engine.speculative.verification import Verification
from headway.server.types import SamplingParams

V = 12
CPU = torch.device("cpu")


class _Logits:
    """A choice over logits that are given."""

    is_alone = True

    def __init__(self, state: SamplingState) -> None:
        self.add, self.remove, self.append, self.depends_on_output = state.add, state.remove, state.append, state.depends_on_output
        self._state = state

    def prepare(self, hidden: Tensor, rows: list[int], lora: object = None, head: object = None) -> Choose:
        def choose(lines: Any = None, ahead: Any = ()) -> ChosenTokens:
            at = list(range(len(rows))) if lines is None else lines
            return self._state.choose(hidden[at].clone(), [rows[line] for line in at], ahead)

        return choose

    def score_prompt(self, hidden: Tensor, target_ids: Any, num_top: int, lora: object = None) -> Any:
        raise AssertionError("nobody asks for it")


def verify(logits: Tensor, drafts: list[list[int]], *samplings: SamplingParams) -> tuple[SampledTokens, list[list[int]]]:
    """(what is said of all lines, the tokens kept of each row); row i has 1 + len(drafts[i]) lines of ``logits``."""
    state = SamplingState(len(drafts), V, CPU, seed=7)
    for row, sampling in enumerate(samplings):
        state.add(row, sampling, [1], 1)
    rows = [row for row, guesses in enumerate(drafts) for _ in range(1 + len(guesses))]
    offsets = [offset for guesses in drafts for offset in range(1 + len(guesses))]
    token_ids = [token for guesses in drafts for token in (1, *guesses)]
    choice = _Logits(state)
    said = Verification(choice, choice.prepare(logits, rows), rows, offsets, token_ids).finish()
    kept: list[list[int]] = [[] for _ in drafts]
    for line, row in enumerate(rows):
        if line not in said.dropped:
            kept[row].append(said.token_ids[line])
    return said, kept


def logits_of(*token_ids: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(token_ids), V).float() * 9


GREEDY = SamplingParams(temperature=0.0)
PENALISED = SamplingParams(temperature=0.0, repetition_penalty=1.001)


@pytest.mark.parametrize("sampling", [GREEDY, PENALISED])
def test_drafts_are_kept_up_to_the_first_that_differs(sampling: SamplingParams) -> None:
    logits = logits_of(4, 5, 6, 4, 7, 3)
    _, kept = verify(logits, [[4, 5], [4], []], sampling, sampling, sampling)
    assert kept == [[4, 5, 6], [4, 7], [3]]
    _, kept = verify(logits, [[4, 9], [8], []], sampling, sampling, sampling)
    assert kept == [[4, 5], [4], [3]]


def test_an_option_that_depends_on_the_output_sees_the_drafts_before() -> None:
    logits = logits_of(4, 4, 4)
    logits[:, 7] = 8.9
    banned = SamplingParams(temperature=0.0, bad_words=((4, 4),))
    _, kept = verify(logits, [[4, 7]], banned)
    assert kept == [[4, 7, 4]]


def test_a_line_without_a_token_behind_others_is_left_to_the_next_step() -> None:
    logits = logits_of(4, 5, 6)
    logits[1] = float("nan")
    said, kept = verify(logits, [[4, 5]], GREEDY)
    assert kept == [[4]]
    assert not said.errors.keys() - said.dropped
    logits[0] = float("nan")
    said, _ = verify(logits, [[4, 5]], GREEDY)
    assert "no usable scores" in said.errors[0].text
    assert said.dropped == {1, 2}


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.6}, {"top_p": 0.8}, {"top_k": 3, "temperature": 1.5}, {"min_p": 0.2}, {"presence_penalty": 0.5}],
    ids=lambda options: "-".join(options) or "plain",
)
def test_tokens_have_the_models_distribution(options: dict[str, Any]) -> None:
    """Chi-square of the token at a draft's place and of the one behind it, against the probabilities of the reference."""
    num_rows, draft = 4000, 2
    sampling = SamplingParams(**{"temperature": 1.0, **options})
    first = torch.linspace(2.0, -1.0, V)
    second = first.flip(0)
    logits = torch.stack([first, second]).repeat(num_rows, 1)
    _, kept = verify(logits, [[draft]] * num_rows, *[sampling] * num_rows)
    at_draft = Counter(tokens[0] for tokens in kept)
    behind = Counter(tokens[1] for tokens in kept if len(tokens) == 2)
    assert sum(behind.values()) == at_draft[draft] > 100, "a draft is kept as often as it is the model's own choice"
    _assert_distributed(at_draft, _probabilities(first, sampling))
    if sampling.presence_penalty:
        second = second.clone()
        second[draft] -= sampling.presence_penalty
    _assert_distributed(behind, _probabilities(second, sampling))


def _probabilities(logits: Tensor, sampling: SamplingParams) -> Tensor:
    """By the definitions of min-p, top-k and top-p."""
    weights = (logits / sampling.temperature).softmax(0)
    weights[weights < sampling.min_p * weights.max()] = 0
    order = weights.argsort(descending=True)
    keep = torch.arange(V) < (sampling.top_k if sampling.top_k > 0 else V)
    ranked = torch.where(keep, weights[order], 0.0)
    ranked /= ranked.sum()
    ranked[ranked.cumsum(0) - ranked >= sampling.top_p] = 0
    weights[order] = ranked
    return weights / weights.sum()


def _assert_distributed(counts: Counter[int], probabilities: Tensor) -> None:
    total = sum(counts.values())
    expected = {token: float(p) * total for token, p in enumerate(probabilities) if p > 0}
    assert counts.keys() <= expected.keys(), "nothing is chosen that the filters forbid"
    statistic = sum((counts[token] - count) ** 2 / count for token, count in expected.items())
    freedom = len(expected) - 1
    # The value that one in 30,000 exceeds (Wilson and Hilferty, 1931).
    limit = freedom * (1 - 2 / (9 * freedom) + 4.0 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert statistic < limit, (statistic, limit)
