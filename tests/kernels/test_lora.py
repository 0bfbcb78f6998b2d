"""Low-rank updates of a mixed step."""

from __future__ import annotations

import pytest
import torch

from headway.kernels.lora import add_lora, prepare_lora

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.06}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    "slots", [[0], [-1, 2, 2, -1, 0], [1, 1, 1], [2, 0, 2, 0, -1, 2, 1], [-1], []], ids=lambda slots: ",".join(map(str, slots))
)
def test_each_token_gets_its_slots_update(slots: list[int], dtype: torch.dtype) -> None:
    num_tokens, num_columns, num_rows, max_rank = len(slots), 5, 7, 4
    ranks = [3, 0, 4]
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    x, wide = random(num_tokens, num_columns), random(num_tokens, num_rows + 3)
    a, b = random(3, max_rank, num_columns), random(3, num_rows, max_rank)
    for slot, rank in enumerate(ranks):  # what no rank reaches may hold anything
        a[slot, rank:], b[slot, :, rank:] = float("nan"), float("nan")
    expected = wide.float().clone()
    for t, slot in enumerate(slots):
        if slot >= 0:
            r = ranks[slot]
            expected[t, 2 : 2 + num_rows] += b[slot, :, :r].float() @ (a[slot, :r].float() @ x[t].float())
    add_lora(wide[:, 2 : 2 + num_rows], x, a, b, ranks, prepare_lora(torch.tensor(slots, dtype=torch.int64), CPU))
    torch.testing.assert_close(wide.float(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_tensors_that_do_not_fit_are_refused() -> None:
    plan = prepare_lora(torch.tensor([0, 0]), CPU)
    out, x, a, b = torch.zeros(2, 7), torch.zeros(2, 5), torch.zeros(1, 4, 5), torch.zeros(1, 7, 4)
    add_lora(out, x, a, b, [4], plan)
    with pytest.raises(ValueError, match="b has shape"):
        add_lora(out, x, a, b[:, :6], [4], plan)
    with pytest.raises(ValueError, match="a has shape"):
        add_lora(out, x[:, :4], a, b, [4], plan)
    with pytest.raises(ValueError, match="all must be the same"):
        add_lora(out, x, a.double(), b, [4], plan)
    with pytest.raises(ValueError, match="out has strides"):
        add_lora(torch.zeros(7, 2).t(), x, a, b, [4], plan)
