"""A step whose prompts are dealt out over ranks with the same heads ("prefill context parallel"): what each computes, and how it attends.

A rank computes the tokens of a chunk whose keys and values it keeps, so keys and values stay where they are made. Queries are gathered,
every rank attends with all of them over its own keys, of which the ranks have equally many whatever the causal mask, and each query's
parts go back to its rank with their log-sum-exps. Rows of one token are computed by all ranks: their hidden states are exchanged by nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headway.kernels.kv_cache import PageScales
from headway.kernels.partial_attention import merge_parts
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.distributed.sequence_share import LongArray, SequenceShare
from headway.server.layers.context_attention import ContextStep, Found, attend_to_part
from headway.server.layers.forward import ForwardBatch, LayerKV


@dataclass(frozen=True, slots=True)
class DealtPrompts:
    """Of a step with n rows of one token, and prompts of which a rank computes m tokens at most.

    ``own`` [n + m] int64: the step's tokens that this rank computes; the last ``num_filling`` stand for nothing, where others have more.
    ``places`` int64: of each of the prompts' tokens, in the step's order, where it is among those of all ranks [ranks * m]; ``owners`` and
    ``own_places``: whose it is, and where among that one's [n + m].
    """

    own: Tensor
    places: Tensor
    owners: Tensor
    own_places: Tensor
    num_decodes: int
    num_filling: int
    is_even: bool  # no rank fills

    def own_slots(self, slot_mapping: Tensor) -> Tensor:
        """Those of the rank's tokens, of the step's [T]; what stands for nothing is written nowhere."""
        slots = slot_mapping[self.own]
        if self.num_filling:
            slots[-self.num_filling :] = -1
        return slots

    def whole(self, rows: Tensor, ranks: TensorParallelGroup) -> Tensor:
        """[T, ..] in the step's order of the ranks' own [n + m, ..]."""
        n = self.num_decodes
        return torch.cat([rows[:n], ranks.all_gather(rows[n:], dim=0)[self.places]])


def deal_prompts(batch: ForwardBatch, share: SequenceShare) -> DealtPrompts | None:
    """None for a step without prompts, which all ranks compute. Made on the host from what it knows of the rows."""
    n, device = batch.num_decodes, batch.positions.device
    if n == len(batch.query_lens):
        return None
    owners = _owners(batch.query_lens[n:], batch.seq_lens_host[n:], share)
    counts = np.bincount(owners, minlength=share.size)
    num_each = int(counts.max())
    by_owner = owners.argsort(kind="stable")
    places = np.empty(len(owners), dtype=np.int64)
    places[by_owner] = np.concatenate([rank * num_each + np.arange(count) for rank, count in enumerate(counts)])
    return DealtPrompts(
        own=_upload(_own(owners, n, share), device),
        places=_upload(places, device),
        owners=_upload(owners, device),
        own_places=_upload(n + places - owners * num_each, device),
        num_decodes=n,
        num_filling=num_each - int(counts[share.rank]),
        is_even=num_each * share.size == len(owners),
    )


def own_tokens(query_lens: Sequence[int], seq_lens: Sequence[int], num_decodes: int, share: SequenceShare) -> LongArray | None:
    """``DealtPrompts.own`` of a step of such rows, on the host; None for all of its tokens."""
    if num_decodes == len(query_lens):
        return None
    return _own(_owners(query_lens[num_decodes:], seq_lens[num_decodes:], share), num_decodes, share)


def _owners(query_lens: Sequence[int], seq_lens: Sequence[int], share: SequenceShare) -> LongArray:
    """Of each token of rows that have prompts."""
    rows = zip(query_lens, seq_lens, strict=True)
    return share.owners(np.concatenate([np.arange(end - count, end) for count, end in rows]))


def _own(owners: LongArray, num_decodes: int, share: SequenceShare) -> LongArray:
    """What fills is the first token of the prompts."""
    prompts = np.flatnonzero(owners == share.rank)
    num_filling = int(np.bincount(owners).max()) - len(prompts)
    return np.concatenate([np.arange(num_decodes), num_decodes + prompts, np.full(num_filling, num_decodes)])


def attend_to_dealt(
    q: Tensor,
    kv: LayerKV,
    step: ContextStep,
    prompts: DealtPrompts | None,
    ranks: TensorParallelGroup,
    scale: float,
    window: int,
    kv_scales: PageScales,
    *,
    softcap: float = 0.0,
) -> Tensor:
    """q [n + m, H, D], of this rank's own tokens -> [n + m, H, D] over the keys of all ranks. ``prompts`` None: m is 0."""
    num_tokens, num_heads, head_dim = q.shape
    queries = q if prompts is None else prompts.whole(q, ranks)
    is_filled = prompts is not None and not prompts.is_even
    found = Found.empty((ranks.size, num_tokens, num_heads), head_dim, q, is_zero=is_filled)
    for part in step.parts:
        out, lse = attend_to_part(queries, kv, part, scale, window, kv_scales, softcap)
        if prompts is None or part.tokens.start < prompts.num_decodes:
            found.values[:, part.tokens], found.lse[:, part.tokens] = out, lse
        else:
            found.values[prompts.owners, prompts.own_places] = out
            found.lse[prompts.owners, prompts.own_places] = lse
    received = Found(ranks.exchange(found.packed), q.dtype)
    return merge_parts(received.values, received.lse)


def _upload(array: LongArray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
