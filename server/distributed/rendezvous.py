"""How the ranks of one host find each other: through a file that only they can read, then over loopback (gloo) or NCCL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from headway.server.distributed.groups import ContextGroup, TensorParallelGroup
from headway.server.distributed.layout import Layout

dist: Any = torch.distributed  # its annotations lack most of what is used here

# A rank that has ended is noticed at once; this bounds the wait for one that has not, and is as slow as a first step may be.
_PATIENCE = timedelta(minutes=10)


def join_ranks(directory: Path, rank: int, size: int, device: torch.device, layout: Layout) -> TensorParallelGroup:
    """Waits until all ``size`` ranks have called it with the same ``directory``, which must be private to them and new, and the same
    ``layout``. A GPU must be the process's current one."""
    store = dist.FileStore(str(directory / "rendezvous"), size)
    store.set_timeout(_PATIENCE)
    make = _nccl if device.type == "cuda" else _gloo
    return arranged(rank, size, layout, store, make)


def arranged(rank: int, size: int, layout: Layout, store: Any, make: Callable[[Any, int, int], Any]) -> TensorParallelGroup:
    """``make`` gives a torch process group: of a store, a rank and a number of ranks."""
    context = None
    if layout.context_size > 1:
        number, own_rank = divmod(rank, layout.context_size)
        group = make(dist.PrefixStore(f"context {number}", store), own_rank, layout.context_size)
        context = ContextGroup(TensorParallelGroup(own_rank, layout.context_size, group), layout.interleave)
    return TensorParallelGroup(rank, size, make(store, rank, size), context, layout.shards_tokens and size > 1)


def _gloo(store: Any, rank: int, size: int) -> Any:
    options = dist.ProcessGroupGloo._Options()
    # On its own gloo takes the address of the host's name, which a container may not resolve.
    options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    options._timeout = _PATIENCE
    return dist.ProcessGroupGloo(store, rank, size, options)


def _nccl(store: Any, rank: int, size: int) -> Any:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = _PATIENCE
    return dist.ProcessGroupNCCL(store, rank, size, options)
