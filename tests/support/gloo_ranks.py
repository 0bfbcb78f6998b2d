"""Ranks of a tensor-parallel group as threads of one process: real gloo collectives without the start-up of processes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

from headway.server.distributed.groups import TensorParallelGroup

T = TypeVar("T")


def run_ranks(size: int, work: Callable[[TensorParallelGroup], T]) -> list[T]:
    """``work`` on each of ``size`` ranks at once; their results by rank."""
    store = dist.HashStore()

    def rank(index: int) -> T:
        options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        options._timeout = timedelta(seconds=60)
        group = dist.ProcessGroupGloo(store, index, size, options)
        return work(TensorParallelGroup(index, size, group))

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(rank, range(size)))
