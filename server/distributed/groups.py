"""The ranks that hold the shards of one model, and the collectives between them. Passed in, never global."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from headway.server.distributed.sequence_share import SequenceShare

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


T = TypeVar("T")


class PeerLost(RuntimeError):
    """The ranks could not meet, or a collective failed: most often since another rank has ended, whose own words are the cause."""


@dataclass(frozen=True, slots=True)
class TensorParallelGroup:
    """This process's place among ``size`` ranks that compute one model together. Size 1 communicates with nobody.

    ``context``: those of the ranks that hold the same key-value heads, each for a part of every sequence; None: each keeps whole ones.
    ``shards_tokens``: between the products that ranks share, each has a part of a step's tokens ("sequence parallel").

    ``process_group`` is a torch process group (gloo, NCCL) over exactly these ranks; its own methods are called, so it need not
    be torch.distributed's default group, nor registered there. All ranks call the same methods in the same order, with tensors of the
    same shapes; they raise PeerLost. On a GPU nothing here waits for the device.
    """

    rank: int = 0
    size: int = 1
    process_group: ProcessGroup | None = None
    context: ContextGroup | None = None
    shards_tokens: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank {self.rank} is not within a group of {self.size}")
        if self.size > 1 and self.process_group is None:
            raise ValueError(f"a group of {self.size} ranks needs a process group")

    @property
    def process_groups(self) -> list[ProcessGroup]:
        """All that this rank may wait in."""
        own = [] if self.process_group is None else [self.process_group]
        return own if self.context is None else [*own, *self.context.ranks.process_groups]

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sums the contiguous ``tensor`` over the ranks, in place, and returns it."""
        if (group := self.process_group) is not None:
            _run(lambda: group.allreduce([tensor]))
        return tensor

    def all_gather(self, tensor: Tensor, dim: int) -> Tensor:
        """Every rank's ``tensor`` (equal shapes), one after the other along ``dim``."""
        if (group := self.process_group) is None:
            return tensor
        parts = self._room_for(tensor)
        _run(lambda: group.allgather([parts], [tensor.contiguous()]))
        return torch.cat(parts, dim=dim)

    def sum_rows(self, summand: Tensor) -> Tensor:
        """The sum of the ranks' contiguous ``summand`` [T, N], which is given up: all of it on each, or where tokens are shared this rank's
        [T / size rounded up, N], zeros behind the last."""
        if (group := self.process_group) is None or not self.shards_tokens:
            return self.all_reduce(summand)
        own_size = -(-len(summand) // self.size)
        num_spare = own_size * self.size - len(summand)
        whole = functional.pad(summand, (0, 0, 0, num_spare)) if num_spare else summand  # it copies in any case
        own = summand.new_empty(own_size, summand.shape[1])
        _run(lambda: group._reduce_scatter_base(own, whole))  # type: ignore[call-arg]  # its options have a default
        return own

    def all_rows(self, rows: Tensor, num_tokens: int) -> Tensor:
        """[T, N] of the ranks' shares as ``sum_rows`` left them."""
        if (group := self.process_group) is None or not self.shards_tokens:
            return rows
        whole = rows.new_empty(len(rows) * self.size, rows.shape[1])
        _run(lambda: group._allgather_base(whole, rows.contiguous()))
        return whole[:num_tokens]

    def exchange(self, tensor: Tensor) -> Tensor:
        """``tensor[r]`` of the contiguous ``tensor`` [size, ..] goes to rank r; what comes back has rank r's at ``[r]``."""
        if (group := self.process_group) is None:
            return tensor
        received = torch.empty_like(tensor)
        _run(lambda: group.alltoall_base(received, tensor, [], []))
        return received

    def exchange_rows(self, rows: Tensor, num_sent: list[int], num_received: list[int]) -> Tensor:
        """The first ``num_sent[0]`` of the contiguous ``rows`` [n, ..] go to rank 0, the next ``num_sent[1]`` to rank 1, and so on; what
        comes back is laid out likewise."""
        received = rows.new_empty(sum(num_received), *rows.shape[1:])
        if (group := self.process_group) is None:
            return received.copy_(rows)
        _run(lambda: group.alltoall_base(received, rows, num_received, num_sent))
        return received

    def gather(self, tensor: Tensor, dim: int) -> Tensor | None:
        """As ``all_gather``, on rank 0 only; None on the others."""
        if (group := self.process_group) is None:
            return tensor
        parts = self._room_for(tensor) if self.rank == 0 else []
        _run(lambda: group.gather(parts, tensor.contiguous(), 0))
        return torch.cat(parts, dim=dim) if parts else None

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Rank 0's contiguous ``tensor``, written over those of the others."""
        if (group := self.process_group) is not None:
            _run(lambda: group.broadcast(tensor, 0))
        return tensor

    def _room_for(self, tensor: Tensor) -> list[Tensor]:
        return [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.size)]


@dataclass(frozen=True, slots=True)
class ContextGroup:
    """The ranks over which sequences are dealt out, and how: ``interleave`` tokens side by side on one of them, then on the next.

    They have different heads of the same layers, and all tokens; or where the group ``deals_prompts`` the same heads, and of a prompt's
    tokens each computes those only whose keys and values it keeps.
    """

    ranks: TensorParallelGroup
    interleave: int
    deals_prompts: bool = False

    @property
    def share(self) -> SequenceShare:
        return SequenceShare(self.ranks.rank, self.ranks.size, self.interleave)


SINGLE = TensorParallelGroup()


def _run(collective: Callable[[], Any]) -> None:
    exchange(lambda: collective().wait())


def exchange(call: Callable[[], T]) -> T:
    """What torch raises of it becomes PeerLost."""
    try:
        return call()
    except RuntimeError as problem:
        raise PeerLost(f"the ranks could not exchange tensors: {problem}") from problem
