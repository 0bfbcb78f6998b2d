"""Low-rank updates of a mixed step."""

from __future__ import annotations

import pytest
import torch

from headway.kernels.lora import add_lora, lora_slots, prepare_lora

CPU = torch.device("cpu")
F32, BF16 = torch.float32, torch.bfloat16
TOLERANCE = {F32: 1e-5, BF16: 0.06}


def slots_of(values_a: torch.Tensor, values_b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As lora_slots has them."""
    num_slots, num_rows, max_rank = values_b.shape
    a, b = lora_slots(num_slots, max_rank, (num_rows, values_a.shape[2]), dtype=values_a.dtype, device=CPU)
    return a.copy_(values_a), b.copy_(values_b)


@pytest.mark.parametrize("shape", [(7, 5, (3, 0, 4)), (150, 67, (21, 0, 32))], ids=["smaller than a vector", "whole vectors and more"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    "slots",
    [[0], [-1, 2, 2, -1, 0], [1, 1, 1], [2, 0, 2, 0, -1, 2, 1], [0] * 40, [0, 2] * 40 + [2] * 3, [-1], []],
    ids=lambda slots: f"{len(slots)}: " + ",".join(map(str, slots[:8])),
)
def test_each_token_gets_its_slots_update(slots: list[int], dtype: torch.dtype, shape: tuple[int, int, tuple[int, ...]]) -> None:
    num_rows, num_columns, ranks = shape
    num_tokens, max_rank = len(slots), max(ranks)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    x, wide = random(num_tokens, num_columns).to(dtype), random(num_tokens, num_rows + 3).to(dtype)
    a, b = slots_of(random(3, max_rank, num_columns).to(dtype), (random(3, num_rows, max_rank) / num_columns).to(dtype))
    for slot, rank in enumerate(ranks):  # what no rank reaches may hold anything
        a[slot, rank:], b[slot, :, rank:] = float("nan"), float("nan")
    expected = wide.float().clone()
    for t, slot in enumerate(slots):
        if slot >= 0:
            r = ranks[slot]
            expected[t, 2 : 2 + num_rows] += b[slot, :, :r].float() @ (a[slot, :r].float() @ x[t].float())
    add_lora(wide[:, 2 : 2 + num_rows], x, a, b, ranks, prepare_lora(torch.tensor(slots, dtype=torch.int64), CPU))
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(wide.float(), expected, atol=tolerance, rtol=tolerance)


def test_tensors_that_do_not_fit_are_refused() -> None:
    plan = prepare_lora(torch.tensor([0, 0]), CPU)
    out, x = torch.zeros(2, 7), torch.zeros(2, 5)
    a, b = slots_of(torch.zeros(1, 4, 5), torch.zeros(1, 7, 4))
    add_lora(out, x, a, b, [4], plan)
    with pytest.raises(ValueError, match="b has shape"):
        add_lora(out, x, a, b[:, :6], [4], plan)
    with pytest.raises(ValueError, match="a has shape"):
        add_lora(out, x[:, :4], a, b, [4], plan)
    with pytest.raises(ValueError, match="all must be the same"):
        add_lora(out, x, a.double(), b, [4], plan)
    with pytest.raises(ValueError, match="out has strides"):
        add_lora(torch.zeros(7, 2).t(), x, a, b, [4], plan)
