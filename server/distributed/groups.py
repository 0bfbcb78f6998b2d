"""The ranks that hold the shards of one model, and the two collectives that layers need. Passed in, never global."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True, slots=True)
class TensorParallelGroup:
    """This process's place among ``size`` ranks that compute one model together. Size 1 communicates with nobody.

    ``process_group`` is a torch process group (gloo, NCCL) over exactly these ranks; its own methods are called, so it need not
    be torch.distributed's default group, nor registered there.
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
        if self.process_group is not None:
            self.process_group.allreduce([tensor]).wait()
        return tensor

    def all_gather(self, tensor: Tensor, dim: int) -> Tensor:
        """Every rank's ``tensor`` (equal shapes), one after the other along ``dim``."""
        if self.process_group is None:
            return tensor
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.size)]
        self.process_group.allgather([parts], [tensor.contiguous()]).wait()
        return torch.cat(parts, dim=dim)


SINGLE = TensorParallelGroup()
