"""Ranks of a model as threads of one process: real gloo collectives without the start-up of processes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from headway.server.distributed.groups import TensorParallelGroup
from headway.server.distributed.layout import Layout
from headway.server.distributed.pipeline import PipelineGroup
from headway.server.distributed.places import PipelineStage
from headway.server.distributed.rendezvous import arranged

T = TypeVar("T")


def run_ranks(size: int, work: Callable[[TensorParallelGroup], T], layout: Layout = Layout()) -> list[T]:
    """``work`` on each of ``size`` ranks at once; their results by rank."""
    store, groups = dist.HashStore(), []

    def rank(index: int) -> T:
        group = arranged(index, size, layout, store, _gloo)
        groups.append(group)  # for as long as any of them may still be connecting, or receive
        return work(group)

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(rank, range(size)))


def run_stages(num_stages: int, work: Callable[[PipelineGroup], T]) -> list[T]:
    """``work`` on each of so many stages at once; their results, that of the first stage first."""
    store, groups = dist.HashStore(), []

    def stage(index: int) -> T:
        group = PipelineGroup(PipelineStage(index, num_stages), _gloo(store, index, num_stages))
        groups.append(group)  # for as long as any of them may still receive
        return work(group)

    with ThreadPoolExecutor(num_stages) as pool:
        return list(pool.map(stage, range(num_stages)))


def _gloo(store: Any, index: int, size: int) -> Any:
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    options._timeout = timedelta(seconds=60)
    return dist.ProcessGroupGloo(store, index, size, options)
