"""How the ranks of a model find each other: on one host through a file that only they can read, on several over the network."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from headway.server.distributed.groups import SINGLE, TensorParallelGroup
from headway.server.distributed.pipeline import ONE_STAGE, PipelineGroup
from headway.server.distributed.places import RankPlace

dist: Any = torch.distributed  # its annotations lack most of what is used here

# A rank that has ended is noticed at once; this bounds the wait for one that has not, and is as slow as a first step may be.
_PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class RankGroups:
    """All that a rank exchanges tensors through."""

    place: RankPlace
    tensor: TensorParallelGroup = SINGLE
    pipeline: PipelineGroup = ONE_STAGE

    def abort(self) -> None:
        """Whoever waits for another rank is released, with PeerLost. From any thread."""
        for group in (self.tensor.process_group, self.pipeline.process_group):
            if group is not None:
                group.abort()


ALONE = RankGroups(RankPlace(0, 1))


@dataclass(frozen=True, slots=True)
class NetworkMeeting:
    """Where ranks of several hosts meet: rank 0 listens there."""

    address: str
    port: int
    key: str  # known to the ranks alone, without which nothing is found at that port
    own_address: str  # at which the others reach this rank
    listener: int | None = None  # rank 0's: a listening socket, which passes to torch


Meeting = Path | NetworkMeeting  # a directory is private to the ranks of one host, and new


def join_ranks(meeting: Meeting, place: RankPlace, device: torch.device) -> RankGroups:
    """Waits until all ranks have called it with the same ``meeting``. A GPU must be the process's current one."""
    store = _store(meeting, place)
    own_address = meeting.own_address if isinstance(meeting, NetworkMeeting) else "127.0.0.1"
    make = _nccl if device.type == "cuda" else partial(_gloo, own_address=own_address)
    tensor, pipeline = SINGLE, ONE_STAGE
    if place.tensor_size > 1:
        of_stage = dist.PrefixStore(f"stage {place.stage.index}", store)
        tensor = TensorParallelGroup(place.tensor_rank, place.tensor_size, make(of_stage, place.tensor_rank, place.tensor_size))
    if place.num_stages > 1:
        of_share = dist.PrefixStore(f"share {place.tensor_rank}", store)
        pipeline = PipelineGroup(place.stage, make(of_share, place.stage.index, place.num_stages))
    return RankGroups(place, tensor, pipeline)


def _store(meeting: Meeting, place: RankPlace) -> Any:
    if isinstance(meeting, NetworkMeeting):
        is_first = place.rank == 0
        listener = {"master_listen_fd": meeting.listener} if is_first else {}
        store = dist.TCPStore(meeting.address, meeting.port, place.num_ranks, is_first, _PATIENCE, wait_for_workers=False, **listener)
        return dist.PrefixStore(meeting.key, store)
    store = dist.FileStore(str(meeting / "rendezvous"), place.num_ranks)
    store.set_timeout(_PATIENCE)
    return store


def _gloo(store: Any, rank: int, size: int, own_address: str) -> Any:
    options = dist.ProcessGroupGloo._Options()
    # On its own gloo takes the address of the host's name, which a container may not resolve.
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=own_address)]
    options._timeout = _PATIENCE
    return dist.ProcessGroupGloo(store, rank, size, options)


def _nccl(store: Any, rank: int, size: int) -> Any:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = _PATIENCE
    return dist.ProcessGroupNCCL(store, rank, size, options)
