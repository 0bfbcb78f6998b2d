"""Collectives between ranks; see also tests/models/test_tensor_parallel.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gloo_ranks import run_ranks

from headway.server.distributed.groups import SINGLE, PeerLost, TensorParallelGroup
from headway.server.distributed.layout import Layout
from headway.server.distributed.sequence_share import SequenceShare


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


@pytest.mark.parametrize("num_tokens", [1, 3, 6, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_are_shared_and_put_together(num_tokens: int, dtype: torch.dtype) -> None:
    """Also those that the ranks do not divide; whoever shares none sums as before."""
    summands = [torch.arange(2 * num_tokens).view(num_tokens, 2).to(dtype) * (rank + 1) for rank in range(3)]
    total = summands[0] * 6

    def work(group: TensorParallelGroup) -> tuple[torch.Tensor, torch.Tensor]:
        own = group.sum_rows(summands[group.rank].clone())
        return own, group.all_rows(own, num_tokens)

    ranks = run_ranks(3, work, Layout(shards_tokens=True))
    assert torch.cat([own for own, _ in ranks])[:num_tokens].equal(total)
    assert {len(own) for own, _ in ranks} == {-(-num_tokens // 3)}
    assert all(whole.equal(total) for _, whole in ranks)
    assert all(own.equal(total) and whole is own for own, whole in run_ranks(3, work))


def test_each_gets_what_is_meant_for_it() -> None:
    def work(group: TensorParallelGroup) -> list[list[int]]:
        found: list[list[int]] = group.exchange(torch.tensor([[10 * group.rank + to] * 2 for to in range(3)], dtype=torch.uint8)).tolist()
        return found

    assert run_ranks(3, work) == [[[rank, rank], [10 + rank] * 2, [20 + rank] * 2] for rank in range(3)]


def test_ranks_side_by_side_share_sequences() -> None:
    def work(group: TensorParallelGroup) -> tuple[SequenceShare, float, int]:
        assert group.context is not None
        total = group.context.ranks.all_reduce(torch.tensor(float(group.rank)))
        return group.context.share, total.item(), len(group.process_groups)

    found = run_ranks(4, work, Layout(context_size=2, interleave=8))
    assert found == [(SequenceShare(rank % 2, 2, 8), total, 2) for rank, total in enumerate([1, 1, 5, 5])]


def test_one_rank_has_nobody_to_ask() -> None:
    own = torch.ones(2)
    assert SINGLE.gather(own, dim=0) is own
    assert SINGLE.broadcast(own) is own
    assert SINGLE.all_gather(own, dim=0) is own
    assert SINGLE.exchange(own) is own
    assert SINGLE.sum_rows(own) is own is SINGLE.all_rows(own, 2)
    assert SINGLE.process_groups == []


def test_a_collective_that_fails_says_so() -> None:
    class Broken:
        def allreduce(self, tensors: list[torch.Tensor]) -> Any:
            raise RuntimeError("Connection closed by peer")

    broken: Any = Broken()
    with pytest.raises(PeerLost, match="Connection closed by peer"):
        TensorParallelGroup(0, 2, broken).all_reduce(torch.ones(1))
