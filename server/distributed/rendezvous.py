"""How the ranks of a model find each other: on one host through a file that only they can read, on several over the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed

from headway.server.distributed.groups import SINGLE, ContextGroup, PeerLost, TensorParallelGroup
from headway.server.distributed.layout import Layout
from headway.server.distributed.meeting import Meeting, NetworkMeeting
from headway.server.distributed.pipeline import ONE_STAGE, PipelineGroup
from headway.server.distributed.places import RankPlace

dist: Any = torch.distributed  # its annotations lack most of what is used here

# A rank that has ended is noticed at once; this bounds the wait for one that has not, and is as slow as a first step may be.
_PATIENCE = timedelta(minutes=10)

_MakeGroup = Callable[[Any, int, int], Any]  # of a store, a rank and a number of ranks


@dataclass(frozen=True, slots=True)
class RankGroups:
    """All that a rank exchanges tensors through."""

    place: RankPlace
    tensor: TensorParallelGroup = SINGLE
    pipeline: PipelineGroup = ONE_STAGE

    def abort(self) -> None:
        """Whoever waits for another rank is released, with PeerLost. From any thread."""
        of_stages = self.pipeline.process_group
        for group in (*self.tensor.process_groups, *([] if of_stages is None else [of_stages])):
            group.abort()


ALONE = RankGroups(RankPlace(0, 1))


def join_ranks(meeting: Meeting, place: RankPlace, device: torch.device, layout: Layout = Layout()) -> RankGroups:
    """Waits until all ranks have called it with the same ``meeting`` and ``layout``, which is that of a stage's ranks.
    A GPU must be the process's current one. Raises PeerLost where another rank ends meanwhile, or can't be reached; RuntimeError where
    this one's own address is none of this host."""
    own_address = meeting.own_address if isinstance(meeting, NetworkMeeting) else "127.0.0.1"
    # On its own gloo takes the address of the host's name, which a container may not resolve.
    make = _nccl if device.type == "cuda" else partial(_gloo, own=dist.ProcessGroupGloo.create_device(hostname=own_address))
    try:
        return _joined(_store(meeting, place), place, layout, make)
    except RuntimeError as problem:
        where = f" at {meeting.address}:{meeting.port}" if isinstance(meeting, NetworkMeeting) else ""
        raise PeerLost(f"the ranks could not meet{where}: {problem}") from problem


def _joined(store: Any, place: RankPlace, layout: Layout, make: _MakeGroup) -> RankGroups:
    tensor, pipeline = SINGLE, ONE_STAGE
    if place.stage_size > 1:
        of_stage = dist.PrefixStore(f"stage {place.stage.index}", store)
        tensor = arranged(place.stage_rank, place.stage_size, layout, of_stage, make)
    if place.num_stages > 1:
        of_share = dist.PrefixStore(f"share {place.stage_rank}", store)
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


def arranged(rank: int, size: int, layout: Layout, store: Any, make: _MakeGroup) -> TensorParallelGroup:
    """Of rank ``rank`` among the ``size`` of a stage."""
    if layout.num_prompt_shares > 1:
        return _with_a_share_of_prompts(rank, size // layout.num_prompt_shares, layout, store, make)
    context = None
    if layout.context_size > 1:
        number, own_rank = divmod(rank, layout.context_size)
        group = make(dist.PrefixStore(f"context {number}", store), own_rank, layout.context_size)
        context = ContextGroup(TensorParallelGroup(own_rank, layout.context_size, group), layout.interleave)
    return TensorParallelGroup(rank, size, make(store, rank, size), context, layout.shards_tokens and size > 1)


def _with_a_share_of_prompts(rank: int, tensor_size: int, layout: Layout, store: Any, make: _MakeGroup) -> TensorParallelGroup:
    share, tensor_rank = divmod(rank, tensor_size)
    group = make(dist.PrefixStore(f"prompts {tensor_rank}", store), share, layout.num_prompt_shares)
    context = ContextGroup(TensorParallelGroup(share, layout.num_prompt_shares, group), layout.interleave, deals_prompts=True)
    of_share = make(dist.PrefixStore(f"layers {share}", store), tensor_rank, tensor_size) if tensor_size > 1 else None
    return TensorParallelGroup(tensor_rank, tensor_size, of_share, context, layout.shards_tokens and tensor_size > 1)


def _gloo(store: Any, rank: int, size: int, own: Any) -> Any:
    options = dist.ProcessGroupGloo._Options()
    options._devices = [own]
    options._timeout = _PATIENCE
    return dist.ProcessGroupGloo(store, rank, size, options)


def _nccl(store: Any, rank: int, size: int) -> Any:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = _PATIENCE
    return dist.ProcessGroupNCCL(store, rank, size, options)
