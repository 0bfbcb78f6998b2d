"""Ranks of a tensor-parallel group as threads of one process: real gloo collectives without the start-up of processes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from headway.server.distributed.groups import TensorParallelGroup
from headway.server.distributed.layout import Layout
from headway.server.distributed.rendezvous import arranged

T = TypeVar("T")


def run_ranks(size: int, work: Callable[[TensorParallelGroup], T], layout: Layout = Layout()) -> list[T]:
    """``work`` on each of ``size`` ranks at once; their results by rank."""
    store = dist.HashStore()

    def make(its_store: Any, index: int, its_size: int) -> Any:
        options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        options._timeout = timedelta(seconds=60)
        return dist.ProcessGroupGloo(its_store, index, its_size, options)

    def rank(index: int) -> T:
        return work(arranged(index, size, layout, store, make))

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(rank, range(size)))
