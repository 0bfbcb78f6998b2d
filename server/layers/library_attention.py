"""Attention by the kernels of a library, in the place of ours: over the same pages, which ours have written."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.attention_library import AttentionForm, AttentionLibrary, LibraryRows
from headway.server.layers.forward import ForwardBatch, LayerKV


@dataclass(slots=True)
class LibraryStep:
    """What all attention layers of one step share."""

    num_decodes: int
    decode: LibraryRows | None  # the rows with one query token
    prefill: LibraryRows | None  # those with more


def prepare_library(batch: ForwardBatch, block_size: int) -> LibraryStep:
    n = batch.num_decodes
    return LibraryStep(
        num_decodes=n,
        decode=_rows(batch, 0, n, block_size) if n else None,
        prefill=_rows(batch, n, len(batch.query_lens), block_size) if n < len(batch.query_lens) else None,
    )


def _rows(batch: ForwardBatch, first: int, stop: int, block_size: int) -> LibraryRows:
    """Rows [first, stop) of a batch, whose first ``first`` rows have one query each."""
    starts = batch.query_start_loc[first : stop + 1]
    tables, is_decode = batch.block_tables[first:stop], first == 0 < batch.num_decodes
    query_lens, seq_lens_host = batch.query_lens[first:stop], batch.seq_lens_host[first:stop]
    return LibraryRows(
        block_tables=tables,
        seq_lens=batch.seq_lens[first:stop],
        query_start_loc=starts - first if first else starts,
        query_lens=query_lens,
        seq_lens_host=seq_lens_host,
        max_query_len=1 if is_decode else batch.max_query_len,
        # Of decode rows a bound, which is the same in all steps that a CUDA graph stands for.
        max_seq_len=tables.shape[1] * block_size if is_decode else max(seq_lens_host),
    )


def attend_by_library(library: AttentionLibrary, q: Tensor, kv: LayerKV, step: LibraryStep, form: AttentionForm) -> Tensor:
    """q [T, num_heads, head_dim], rotated -> the same shape."""
    if step.prefill is None:
        assert step.decode is not None, "a step has at least one row"
        return library.decode(q, kv.k, kv.v, step.decode, form)
    if step.decode is None:
        return library.prefill(q, kv.k, kv.v, step.prefill, form)
    n = step.num_decodes
    return torch.cat([library.decode(q[:n], kv.k, kv.v, step.decode, form), library.prefill(q[n:], kv.k, kv.v, step.prefill, form)])
