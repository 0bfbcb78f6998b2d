"""thinking_token_budget: reasoning ends after so many tokens, in the sampler, across preemption and through the engine."""

from __future__ import annotations

import random

import pytest
import torch
from engine_driver import make_engine, request, run
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling import sample
from tiny_models import make_tiny_model

from headway.server.engine.sampler import SamplingState
from headway.server.source.files import ModelFiles
from headway.server.types import SamplingParams, ThinkingBudget

V = 12
CPU = torch.device("cpu")
START, END = 10, 11


def answers(budget: ThinkingBudget, wanted: list[int], preempt_at: frozenset[int] = frozenset(), **sampling: object) -> list[int]:
    """What a model that wants to write ``wanted`` writes under ``budget``: a forced token takes the place of the one wanted."""
    params = SamplingParams(**{"temperature": 0.0, "thinking": budget, **sampling})  # type: ignore[arg-type]
    state = SamplingState(2, V, CPU)
    prompt, row = [1, 2, START], 0  # what the prompt holds is nothing to the budget
    state.add(row, params, prompt, len(prompt))
    output: list[int] = []
    for position, token in enumerate(wanted):
        if position in preempt_at:
            state.remove(row)
            row = 1 - row
            state.add(row, params, prompt + output, len(prompt))
        logits = torch.zeros(1, V)
        logits[0, token] = 5.0
        output += sample(state, logits, [row]).token_ids
        state.append([row], output[-1:])
    return output


OPEN = ThinkingBudget(3, start=(), end=END, forced=(END,), is_open=True)
MARKED = ThinkingBudget(3, start=(START,), end=END, forced=(END,))
LONG = ThinkingBudget(2, start=(7, 8), end=END, forced=(END, 5, 6), may_restart=True)


@pytest.mark.parametrize(("budget", "wanted", "expected"), [
    (OPEN, [1] * 6, [1, 1, 1, END, 1, 1]),
    (OPEN, [1, END, 1, 1, 1, 1], [1, END, 1, 1, 1, 1]),
    (OPEN, [1, 1, END, 1, 1, 1], [1, 1, END, 1, 1, 1]),
    (ThinkingBudget(0, start=(), end=END, forced=(END,), is_open=True), [1] * 3, [END, 1, 1]),
    (MARKED, [START, *[1] * 6], [START, 1, 1, 1, END, 1, 1]),
    (MARKED, [0, START, *[1] * 6], [0, START, 1, 1, 1, END, 1, 1]),
    (MARKED, [1] * 10, [1] * 10),
    (MARKED, [1] * 9 + [START, *[1] * 6], [1] * 9 + [START, *[1] * 6]),  # in the content it is no mark
    (ThinkingBudget(0, start=(START,), end=END, forced=(END,)), [START, 1, 1], [START, END, 1]),
    (LONG, [7, 8, 1, 1, 1, 1, 1, 1], [7, 8, 1, 1, END, 5, 6, 1]),
    (LONG, [7, 7, 8, 1, END, 7, 8, 1, 1, 1, 1], [7, 7, 8, 1, END, 7, 8, END, 5, 6, 1]),
])  # fmt: skip
def test_the_end_is_forced_in_time(budget: ThinkingBudget, wanted: list[int], expected: list[int]) -> None:
    assert answers(budget, wanted) == expected
    for at in range(len(wanted)):
        assert answers(budget, wanted, frozenset({at})) == expected


numbers, sequences = st.integers(0, 5), st.sampled_from([(START,), (7, 8)])
budgets = st.builds(ThinkingBudget, numbers, sequences, st.just(END), st.sampled_from([(END,), (END, 5, 6)]), st.booleans(), st.booleans())


@given(budgets, st.lists(st.integers(0, V - 1), max_size=25), st.frozensets(st.integers(0, 24)))
@settings(max_examples=150, deadline=None)
def test_any_answer(budget: ThinkingBudget, wanted: list[int], preempt_at: frozenset[int]) -> None:
    output = answers(budget, wanted)
    assert answers(budget, wanted, preempt_at) == output
    changed = [at for at, (had, got) in enumerate(zip(wanted, output, strict=True)) if had != got]
    assert all(output[at] in budget.forced for at in changed)
    if budget.is_open:
        assert END in output[: budget.num_tokens + 1] or len(output) <= budget.num_tokens


def test_what_is_forced_nothing_else_forbids() -> None:
    """The end stands against a bias, a ban until min_tokens, penalties, bad words and allowed tokens; it also draws."""
    options = {"logit_bias": {END: -100.0}, "min_tokens": 9, "eos_token_ids": (END,), "repetition_penalty": 5.0, "frequency_penalty": 2.0}
    assert answers(OPEN, [1] * 4, **options)[3] == END
    assert answers(OPEN, [1] * 4, bad_words=((END,),))[3] == END
    assert answers(OPEN, [1] * 4, allowed_token_ids=(1, 2))[3] == END
    assert answers(OPEN, [1] * 4, temperature=1.5, top_p=0.5, seed=3)[3] == END


def test_rows_without_a_budget_are_not_touched() -> None:
    state = SamplingState(2, V, CPU)
    state.add(0, SamplingParams(temperature=0.0), [1], 1)
    state.add(1, SamplingParams(temperature=0.0, thinking=ThinkingBudget(0, (), END, (END,), is_open=True)), [1], 1)
    logits = torch.randn(2, V)
    before = logits[0].clone()
    assert sample(state, logits, [0, 1]).token_ids == [int(before.argmax()), END]
    assert torch.equal(logits[0], before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return make_tiny_model("llama", tmp_path_factory.mktemp("tiny"))


def test_the_engine_ends_reasoning_whatever_runs_beside_it(tiny: ModelFiles) -> None:
    """On a cache that is too small, so that requests are preempted in the middle of it."""
    prompt = random.Random(2).choices(range(3, 259), k=23)
    budgets = [None, *(ThinkingBudget(n, (), 7, (7, 8, 9), is_open=True) for n in (0, 5, 12, 20))]
    requests = [request(f"r{n}", prompt, max_tokens=30, ignore_eos=True, thinking=budget) for n, budget in enumerate(budgets)]
    roomy = run(make_engine(tiny, model={"max_model_len": 256}), requests)
    tight = run(make_engine(tiny, model={"max_model_len": 64}, cache={"block_size": 4, "num_gpu_blocks_override": 30}), requests)
    assert sum(output.num_preemptions for output in tight.values()) > 0
    free = roomy["r0"].token_ids
    assert 7 not in free
    for name, budget in zip(roomy, budgets, strict=True):
        output = roomy[name].token_ids
        assert tight[name].token_ids == output
        if budget is not None:
            assert output[: budget.num_tokens] == free[: budget.num_tokens]
            assert output[budget.num_tokens :][:3] == [7, 8, 9]
            assert len(output) == 30
