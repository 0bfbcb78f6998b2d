"""Low-rank updates of a mixed step's embeddings."""

from __future__ import annotations

import pytest
import torch

from headway.kernels.embedding_lora import add_embedding_lora, embedding_lora_slots
from headway.kernels.lora import prepare_lora

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.06}


@pytest.mark.usefixtures("cpu_path")
@pytest.mark.parametrize("shape", [(7, 5, (3, 0, 4)), (150, 67, (21, 0, 32)), (7, 0, (2, 0, 1))], ids=["narrow", "whole vectors", "no ids"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    "slots",
    [[0], [-1, 2, 2, -1, 0], [2, 0, 2, 0, -1, 2, 1], [0] * 40, [0, 2] * 40 + [2] * 3, [1, 1], [-1], []],
    ids=lambda slots: f"{len(slots)}: " + ",".join(map(str, slots[:8])),
)
def test_each_token_gets_its_row_of_its_slot(slots: list[int], dtype: torch.dtype, shape: tuple[int, int, tuple[int, ...]]) -> None:
    """Tokens outside the table, which another rank has, get nothing."""
    num_features, num_ids, ranks = shape
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    token_ids = torch.randint(-3, num_ids + 3, (len(slots),), generator=generator)
    wide = random(len(slots), num_features + 3)
    a, b = embedding_lora_slots(3, max(ranks), (num_ids, num_features), dtype=dtype, device=CPU)
    a.copy_(random(*a.shape))
    b.copy_(random(*b.shape) / 9)
    for slot, rank in enumerate(ranks):  # what no rank reaches may hold anything
        a[slot, :, rank:], b[slot, :, rank:] = float("nan"), float("nan")
    expected = wide.float().clone()
    for t, (slot, token_id) in enumerate(zip(slots, token_ids.tolist(), strict=True)):
        if slot >= 0 and 0 <= token_id < num_ids:
            r = ranks[slot]
            expected[t, 2 : 2 + num_features] += b[slot, :, :r].float() @ a[slot, token_id, :r].float()
    add_embedding_lora(wide[:, 2 : 2 + num_features], token_ids, a, b, ranks, prepare_lora(torch.tensor(slots, dtype=torch.int64), CPU))
    torch.testing.assert_close(wide.float(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_tensors_that_do_not_fit_are_refused() -> None:
    plan = prepare_lora(torch.tensor([0, 0]), CPU)
    out, token_ids = torch.zeros(2, 7), torch.tensor([0, 4])
    a, b = embedding_lora_slots(1, 4, (5, 7), dtype=torch.float32, device=CPU)
    with pytest.raises(ValueError, match="b has shape"):
        add_embedding_lora(out, token_ids, a, b[:, :6], [4], plan)
    with pytest.raises(ValueError, match="token_ids is torch"):
        add_embedding_lora(out, token_ids.int(), a, b, [4], plan)
    with pytest.raises(ValueError, match="all must be the same"):
        add_embedding_lora(out, token_ids, a.double(), b, [4], plan)
