"""Collectives between ranks; see also tests/models/test_tensor_parallel.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gloo_ranks import run_ranks

from headway.server.distributed.groups import SINGLE, PeerLost, TensorParallelGroup


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_to_rank_0_and_from_it(dtype: torch.dtype) -> None:
    def work(group: TensorParallelGroup) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        own = torch.full((2, 3), float(group.rank), dtype=dtype)
        return group.gather(own[:, :2], dim=1), group.broadcast(own.clone()), group.all_reduce(own + 1)

    ranks = run_ranks(3, work)
    at_rank_0 = ranks[0][0]
    assert at_rank_0 is not None
    assert at_rank_0.tolist() == [[0.0, 0.0, 1.0, 1.0, 2.0, 2.0]] * 2
    assert all(gathered is None for gathered, _, _ in ranks[1:])
    for _, sent, total in ranks:
        assert sent.tolist() == [[0.0] * 3] * 2
        assert total.tolist() == [[6.0] * 3] * 2


def test_one_rank_has_nobody_to_ask() -> None:
    own = torch.ones(2)
    assert SINGLE.gather(own, dim=0) is own
    assert SINGLE.broadcast(own) is own
    assert SINGLE.all_gather(own, dim=0) is own


def test_a_collective_that_fails_says_so() -> None:
    class Broken:
        def allreduce(self, tensors: list[torch.Tensor]) -> Any:
            raise RuntimeError("Connection closed by peer")

    broken: Any = Broken()
    with pytest.raises(PeerLost, match="Connection closed by peer"):
        TensorParallelGroup(0, 2, broken).all_reduce(torch.ones(1))
