"""A process group that counts what is asked of it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from headway.server.distributed.groups import TensorParallelGroup

_COLLECTIVES = ("allreduce", "allgather", "gather", "broadcast", "send", "recv")


class CountedGroup:
    """``calls``: (collective, bytes of this rank's tensor), in order."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self.calls: list[tuple[str, int]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._group, name)
        if name not in _COLLECTIVES:
            return method

        def counted(*arguments: Any) -> Any:
            tensors = [item for argument in arguments for item in (argument if isinstance(argument, list) else [argument])]
            self.calls.append((name, sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))))
            return method(*arguments)

        return counted

    def take(self) -> list[tuple[str, int]]:
        taken, self.calls = self.calls, []
        return taken


def counted(group: TensorParallelGroup) -> tuple[TensorParallelGroup, CountedGroup]:
    counter: Any = CountedGroup(group.process_group)
    return TensorParallelGroup(group.rank, group.size, counter), counter
