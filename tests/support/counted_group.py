"""A process group that counts what is asked of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from headway.server.distributed.groups import TensorParallelGroup

_COLLECTIVES = (
    *("allreduce", "allgather", "gather", "broadcast", "send", "recv"),
    *("_reduce_scatter_base", "_allgather_base", "alltoall_base"),
)


class CountedGroup:
    """``calls``: (collective, bytes of this rank's tensor), in order."""

    def __init__(self, group: Any, calls: list[tuple[str, int]] | None = None) -> None:
        """``calls`` of another one, to count in the same order."""
        self._group = group
        self.calls: list[tuple[str, int]] = [] if calls is None else calls

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._group, name)
        if name not in _COLLECTIVES:
            return method

        def counted(*arguments: Any) -> Any:
            given = arguments[1:2] if name.endswith("_base") else arguments  # the first is room for what comes
            tensors = [item for argument in given for item in (argument if isinstance(argument, list) else [argument])]
            self.calls.append((name, sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))))
            return method(*arguments)

        return counted

    def take(self) -> list[tuple[str, int]]:
        taken = self.calls.copy()
        self.calls.clear()
        return taken


def counted(group: TensorParallelGroup) -> tuple[TensorParallelGroup, CountedGroup]:
    counter: Any = CountedGroup(group.process_group)
    context = group.context
    if context is not None:
        shared: Any = CountedGroup(context.ranks.process_group, counter.calls)
        context = replace(context, ranks=replace(context.ranks, process_group=shared))
    return replace(group, process_group=counter, context=context), counter
