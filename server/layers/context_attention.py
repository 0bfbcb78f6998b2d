"""Attention where ranks share sequences: each has the same key-value heads for a part of every sequence's tokens ("context parallel").

A rank gathers the queries of all of them, attends over its own keys, and gives each rank what it found for that one's heads, with the
log-sum-exp to weigh it by: one all-gather and one all-to-all a layer, whose sizes follow from the step's tokens, not from the context.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.kv_cache import PageScales
from headway.kernels.partial_attention import KeySpans, QueryRows, merge_parts, partial_attention
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.distributed.sequence_share import SequenceShare
from headway.server.layers.forward import ForwardBatch, LayerKV


@dataclass(frozen=True, slots=True)
class PartRows:
    """Rows of one query token, or rows of more; ``spans`` by sliding window."""

    tokens: slice  # of the step
    rows: QueryRows
    spans: dict[int, KeySpans]


@dataclass(frozen=True, slots=True)
class ContextStep:
    """What all layers of a step share."""

    parts: tuple[PartRows, ...]  # in the order of their tokens


def prepare_context(batch: ForwardBatch, windows: tuple[int, ...], share: SequenceShare) -> ContextStep:
    """For each query what it sees of the keys that are kept here. Nothing waits for the device."""
    n, num_rows = batch.num_decodes, len(batch.query_lens)
    ends = share.num_kept(batch.positions + 1).int()
    oldest = {window: (batch.positions - window + 1).clamp(min=0) if window else torch.zeros_like(batch.positions) for window in windows}
    begins = {window: share.num_kept(positions).int() for window, positions in oldest.items()}

    def part(rows: slice, tokens: slice) -> PartRows:
        starts = batch.query_start_loc[rows.start : rows.stop + 1]
        spans = {window: KeySpans(begins[window][tokens], ends[tokens]) for window in windows}
        queries = QueryRows(batch.block_tables[rows], starts - n if rows.start else starts, batch.query_lens[rows])
        return PartRows(tokens, queries, spans)

    parts = []
    if n:
        parts.append(part(slice(0, n), slice(0, n)))
    if n < num_rows:
        parts.append(part(slice(n, num_rows), slice(n, len(batch.positions))))
    return ContextStep(tuple(parts))


def attend_to_part(
    queries: Tensor, kv: LayerKV, part: PartRows, scale: float, window: int, kv_scales: PageScales, softcap: float
) -> tuple[Tensor, Tensor]:
    """(values, log-sum-exps) that some rows of ``queries`` [T, H, D], of all ranks, find in the keys that are kept here."""
    return partial_attention(
        queries[part.tokens],
        kv.k,
        kv.v,
        part.rows,
        part.spans[window],
        scale,
        has_begins=window > 0,
        softcap=softcap,
        kv_scales=kv_scales,
    )


def attend_in_context(
    q: Tensor,
    kv: LayerKV,
    step: ContextStep,
    ranks: TensorParallelGroup,
    scale: float,
    window: int,
    kv_scales: PageScales,
    *,
    softcap: float = 0.0,
) -> Tensor:
    """q [T, Hq, D], this rank's heads -> [T, Hq, D] over the keys of all ranks."""
    num_tokens, num_heads, head_dim = q.shape
    queries = ranks.all_gather(q, dim=1)  # by rank: they share this rank's one key-value head, whatever their order
    found = Found.empty((ranks.size, num_tokens, num_heads), head_dim, q)
    for part in step.parts:
        out, lse = attend_to_part(queries, kv, part, scale, window, kv_scales, softcap)
        found.values[:, part.tokens] = out.view(-1, ranks.size, num_heads, head_dim).transpose(0, 1)
        found.lse[:, part.tokens] = lse.view(-1, ranks.size, num_heads).transpose(0, 1)
    received = Found(ranks.exchange(found.packed), q.dtype)
    return merge_parts(received.values, received.lse)


class Found:
    """Values in the queries' dtype and an fp32 number behind each head's, in one tensor of bytes: one exchange, not two."""

    def __init__(self, packed: Tensor, dtype: torch.dtype) -> None:
        """``packed`` [R, T, H, bytes]."""
        self.packed = packed
        self.values = packed.view(dtype)[..., : (packed.shape[-1] - 4) // dtype.itemsize]
        self.lse = packed.view(torch.float32)[..., -1]

    @staticmethod
    def empty(shape: tuple[int, int, int], head_dim: int, q: Tensor, *, is_zero: bool = False) -> Found:
        """``is_zero``: not all of it will be filled."""
        make = torch.zeros if is_zero else torch.empty
        return Found(make((*shape, head_dim * q.dtype.itemsize + 4), dtype=torch.uint8, device=q.device), q.dtype)
