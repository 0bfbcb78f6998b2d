"""Attention over a part of each row's keys, where the rest is on other ranks; and the parts put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.backend import implementation
from headway.kernels.checks import check_float, check_shape
from headway.kernels.kv_cache import UNSCALED, PageScales, check_cache


@dataclass(frozen=True, slots=True)
class KeySpans:
    """What each query sees of the keys in its row's pages, counted from the first of them: ``begins[t] <= key < ends[t]``, both [T] int32.
    Neither falls from one query of a row to the next."""

    begins: Tensor
    ends: Tensor


@dataclass(frozen=True, slots=True)
class QueryRows:
    """The rows of a step: ``block_tables`` [B, M] int32, ``query_start_loc`` [B + 1] int32 from 0 on, and the number of queries of each
    on the host. Either all rows have one query, or more than one."""

    block_tables: Tensor
    query_start_loc: Tensor
    query_lens: Sequence[int]

    @property
    def max_query_len(self) -> int:
        return max(self.query_lens, default=0)


def partial_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    rows: QueryRows,
    spans: KeySpans,
    scale: float,
    *,
    has_begins: bool = True,
    softcap: float = 0.0,
    kv_scales: PageScales = UNSCALED,
) -> tuple[Tensor, Tensor]:
    """``out[t, h] = softmax(cap(scale * q[t, h] . K)) V`` over the keys of the query's span, as in paged_attention, and ``lse[t, h]``, the
    logarithm to the base 2 of the softmax's denominator: what ``merge_parts`` weighs parts by. (Flash-Decoding, Dao et al. 2023)

    q [T, Hq, D] (any outer strides); k_cache, v_cache [num_blocks, block_size, Hkv, D] as there. ``has_begins``: some span begins behind
    key 0. A query that sees no key has out 0 and lse -inf.
    Returns new (out [T, Hq, D] in q's dtype, lse [T, Hq] fp32), contiguous.
    """
    check_float("q", q)
    check_cache(q, k_cache, v_cache, kv_scales)
    check_shape("block_tables", rows.block_tables, len(rows.query_lens), -1)
    check_shape("query_start_loc", rows.query_start_loc, len(rows.query_lens) + 1)
    for name, bound in (("begins", spans.begins), ("ends", spans.ends)):
        check_shape(name, bound, q.shape[0])
        if bound.dtype != torch.int32:
            raise ValueError(f"{name} has dtype {bound.dtype}, expected torch.int32")
    found: tuple[Tensor, Tensor] = implementation("partial_attention", q.device.type).partial_attention(
        q, k_cache, v_cache, rows, spans, scale, has_begins=has_begins, softcap=softcap, kv_scales=kv_scales
    )
    return found


def merge_parts(parts: Tensor, lse: Tensor) -> Tensor:
    """``out[t, h] = sum_r parts[r, t, h] 2^lse[r, t, h] / sum_r 2^lse[r, t, h]``: attention over the keys of all parts.

    parts [R, T, H, D] float and lse [R, T, H] fp32, of any outer strides; each query sees a key of some part.
    Returns a new contiguous [T, H, D] in the parts' dtype, summed in fp32.
    """
    check_float("parts", parts)
    check_shape("lse", lse, *parts.shape[:3])
    out: Tensor = implementation("partial_attention", parts.device.type).merge_parts(parts, lse)
    return out
