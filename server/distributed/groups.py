"""The ranks that hold the shards of one model, and the collectives between them. Passed in, never global."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


T = TypeVar("T")


class PeerLost(RuntimeError):
    """A collective failed: most often since another rank has ended, whose own words are the cause."""


@dataclass(frozen=True, slots=True)
class TensorParallelGroup:
    """This process's place among ``size`` ranks that compute one model together. Size 1 communicates with nobody.

    ``process_group`` is a torch process group (gloo, NCCL) over exactly these ranks; its own methods are called, so it need not
    be torch.distributed's default group, nor registered there. All ranks call the same methods in the same order, with tensors of the
    same shapes; they raise PeerLost. On a GPU nothing here waits for the device.
    """

    rank: int = 0
    size: int = 1
    process_group: ProcessGroup | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank {self.rank} is not within a group of {self.size}")
        if self.size > 1 and self.process_group is None:
            raise ValueError(f"a group of {self.size} ranks needs a process group")

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


SINGLE = TensorParallelGroup()


def _run(collective: Callable[[], Any]) -> None:
    exchange(lambda: collective().wait())


def exchange(call: Callable[[], T]) -> T:
    """What torch raises of it becomes PeerLost."""
    try:
        return call()
    except RuntimeError as problem:
        raise PeerLost(f"the ranks could not exchange tensors: {problem}") from problem
