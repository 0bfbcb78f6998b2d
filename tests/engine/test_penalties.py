"""PenaltyState: which tokens count, and for which rows. test_sampler.py has the formula."""

from __future__ import annotations

import torch

from headway.kernels.sampling import BROKEN
from headway.server.engine.penalties import PenaltyState
from headway.server.types import SamplingParams

CPU = torch.device("cpu")
PARAMS = SamplingParams(presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=1.2)


def state_of_two() -> PenaltyState:
    state = PenaltyState(9, CPU)
    state.add(1, PARAMS, [2, 3, 3], 2)
    state.add(4, PARAMS, [5], 1)
    return state


def test_tokens_count_for_their_rows() -> None:
    state = state_of_two()
    state.append([4, 0, 1, 1], [6, 7, 3, BROKEN])
    before = torch.linspace(-2, 2, 18).reshape(2, 9)
    after = before.clone()
    state.apply(after, [1, 4])
    assert (after != before).nonzero().tolist() == [[0, 2], [0, 3], [1, 5], [1, 6]]
    assert after[0, 3].item() == torch.tensor(before[0, 3].item() * 1.2 - 2 * 0.25 - 0.5).item()


def test_what_is_kept_of_a_step_serves_only_the_same_rows_in_the_same_places() -> None:
    state = state_of_two()
    for rows in ([1, 4], [1, 4], [4, 1], [0, 4]):
        kept, fresh = torch.ones(2, 9), torch.ones(2, 9)
        state.apply(kept, rows)
        state_of_two().apply(fresh, rows)
        assert torch.equal(kept, fresh)
    state.remove(4)
    state.add(4, SamplingParams(presence_penalty=2.0), [0, 8], 1)
    changed = torch.ones(2, 9)
    state.apply(changed, [0, 4])
    assert changed[1].tolist() == [1.0] * 8 + [-1.0]
