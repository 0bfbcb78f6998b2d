"""Attention of a step's rows over their cache pages: normalise, rotate, write keys and values, attend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.attention_library import AttentionForm, AttentionLibrary
from headway.kernels.kv_cache import FP8, UNSCALED, KVScales, PageScales
from headway.kernels.paged_attention import paged_attention, prepare_decode
from headway.kernels.plans import DecodePlan, PrefillPlan, RopePlan
from headway.kernels.prefill_attention import prefill_attention, prepare_prefill
from headway.kernels.rope import QKNorm, prepare_rope, rope_and_cache
from headway.server.distributed.groups import ContextGroup, TensorParallelGroup
from headway.server.layers.context_attention import ContextStep, attend_in_context, prepare_context
from headway.server.layers.dealt_prompts import DealtPrompts, attend_to_dealt, deal_prompts
from headway.server.layers.forward import ForwardBatch, LayerKV
from headway.server.layers.library_attention import LibraryStep, attend_by_library, prepare_library
from headway.server.layers.linear import split_evenly
from headway.server.layers.norm import HeadLayerNorm, RMSNorm, WholeRMSNorm
from headway.server.layers.weight import Layer, Part, Weight


@dataclass(slots=True)
class DecodeRows:
    """The rows with one query token, and the kernels' plan for each sliding window among the layers."""

    block_tables: Tensor
    seq_lens: Tensor
    max_seq_len: int
    plans: dict[int, DecodePlan | None]


@dataclass(slots=True)
class PrefillRows:
    """The rows with more, counted from the first of them."""

    block_tables: Tensor
    seq_lens: Tensor
    query_start_loc: Tensor
    query_lens: list[int]
    seq_lens_host: list[int]
    max_query_len: int
    max_seq_len: int
    plans: dict[int, PrefillPlan | None]


@dataclass(slots=True)
class Rotation:
    """One of a model's rotary embeddings."""

    cos_sin: Tensor
    plan: RopePlan | None


@dataclass(slots=True)
class AttentionStep:
    """What all attention layers of one step share. Made once a step by ``prepare_attention``; layers only read it."""

    positions: Tensor
    slot_mapping: Tensor
    rotations: list[Rotation]
    num_decodes: int
    decode: DecodeRows | None
    prefill: PrefillRows | None
    context: ContextStep | None = None  # in the place of both, where ranks share sequences
    prompts: DealtPrompts | None = None  # of which each computes a part: then positions and slots are of its own tokens
    library: LibraryStep | None = None  # in the place of both, where a library's kernels attend


def prepare_attention(
    batch: ForwardBatch,
    tables: Sequence[Tensor],
    windows: tuple[int, ...],
    kv: LayerKV,
    context: ContextGroup | None = None,
    library: AttentionLibrary | None = None,
) -> AttentionStep:
    """Cuts the batch into decode and prefill rows and plans each once per distinct sliding window in ``windows``.

    ``tables`` are those of the rotary embeddings among the layers; ``kv`` is any layer's pages: all have the same shape and dtype.
    ``context``: the ranks that share sequences with this one. ``library``: whose kernels the layers have.
    """
    n = batch.num_decodes
    block_size, dtype = kv.k.shape[1], kv.k.dtype
    prompts = deal_prompts(batch, context.share) if context is not None and context.deals_prompts else None
    positions, slot_mapping = batch.positions, batch.slot_mapping
    if prompts is not None:
        positions, slot_mapping = positions[prompts.own], prompts.own_slots(slot_mapping)
    rotations = [Rotation(table, prepare_rope(table, positions, slot_mapping)) for table in tables]
    if context is not None:
        shared = prepare_context(batch, windows, context.share)
        return AttentionStep(positions, slot_mapping, rotations, n, None, None, shared, prompts)
    if library is not None:
        return AttentionStep(positions, slot_mapping, rotations, n, None, None, library=prepare_library(batch, block_size))
    return AttentionStep(
        positions=batch.positions,
        slot_mapping=batch.slot_mapping,
        rotations=rotations,
        num_decodes=n,
        decode=_decode_rows(batch, windows, block_size, dtype) if n else None,
        prefill=_prefill_rows(batch, windows, block_size, dtype) if n < len(batch.query_lens) else None,
    )


def _decode_rows(batch: ForwardBatch, windows: tuple[int, ...], block_size: int, dtype: torch.dtype) -> DecodeRows:
    n = batch.num_decodes
    block_tables, seq_lens, seq_lens_host = batch.block_tables, batch.seq_lens, batch.seq_lens_host
    if n < len(batch.query_lens):
        block_tables, seq_lens, seq_lens_host = block_tables[:n], seq_lens[:n], seq_lens_host[:n]
    plans = {
        window: prepare_decode(
            block_tables, seq_lens, block_size=block_size, dtype=dtype, sliding_window=window, seq_lens_host=seq_lens_host
        )
        for window in windows
    }
    # No more than a bound, since a GPU's kernel is compiled for each number of splits that follows from it: from the width of the tables it
    # is the same in all steps, and splits without keys cost nothing (H200, 2k keys: 10.3 us bounded by 128k, 13.1 by 2k; 2026-11).
    return DecodeRows(block_tables, seq_lens, block_tables.shape[1] * block_size, plans)


def _prefill_rows(batch: ForwardBatch, windows: tuple[int, ...], block_size: int, dtype: torch.dtype) -> PrefillRows:
    n = batch.num_decodes
    block_tables, seq_lens = batch.block_tables[n:], batch.seq_lens[n:]
    query_start_loc = batch.query_start_loc[n:] - n if n else batch.query_start_loc
    query_lens, seq_lens_host = batch.query_lens[n:], batch.seq_lens_host[n:]
    plans = {
        window: prepare_prefill(
            block_tables,
            seq_lens,
            query_start_loc,
            block_size=block_size,
            dtype=dtype,
            query_lens=query_lens,
            seq_lens_host=seq_lens_host,
            sliding_window=window,
        )
        for window in windows
    }
    return PrefillRows(block_tables, seq_lens, query_start_loc, query_lens, seq_lens_host, batch.max_query_len, max(seq_lens_host), plans)


class AttentionSinks(Layer):
    """A score of each of this rank's heads that takes its share of the softmax and gives nothing: see kernels/paged_attention.py."""

    def __init__(self, num_heads: int, *, dtype: torch.dtype, device: torch.device, group: TensorParallelGroup) -> None:
        length = split_evenly(num_heads, group, "the number of attention heads")
        parts = {"": Part((num_heads,), 0, group.rank * length, length)}
        self.weight = Weight((length,), parts, self._keep, dtype=dtype, device=device)
        self.scores: Tensor

    def _keep(self, scores: Tensor) -> int:
        self.scores = scores
        return scores.nbytes


@dataclass(frozen=True, slots=True)
class GivenSinks:
    """The same where another has the weights: scores [heads of this rank]."""

    scores: Tensor


class Attention(Layer):
    """qkv [T, (num_heads + 2 num_kv_heads) * head_dim] -> [T, num_heads * head_dim], this rank's heads.

    ``scale``: of scores, None for 1 / sqrt(head_dim). ``rotation``: which of the step's rotary embeddings. ``q_norm`` and ``k_norm`` are of
    one kind: norms of each head, of all heads together, or of each head with weights of its own."""

    def __init__(
        self,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        sliding_window: int = 0,
        scale: float | None = None,
        softcap: float = 0.0,
        rotation: int = 0,
        is_interleaved: bool = False,
        q_norm: RMSNorm | WholeRMSNorm | HeadLayerNorm | None = None,
        k_norm: RMSNorm | WholeRMSNorm | HeadLayerNorm | None = None,
        sinks: AttentionSinks | GivenSinks | None = None,
        context: ContextGroup | None = None,
        library: AttentionLibrary | None = None,
    ) -> None:
        """``context``: the ranks that hold the same key-value heads for the other parts of each sequence. ``library``: whose kernels attend
        in the place of ours; there are no sinks and no such ranks then."""
        self.q_norm = q_norm
        self.k_norm = k_norm
        self.sinks = sinks
        self.kv_scales = UNSCALED  # of pages in fp8
        self.head_dim = head_dim
        self.head_counts = [num_heads, num_kv_heads, num_kv_heads]
        self._out_size = num_heads * head_dim
        self._scale = head_dim**-0.5 if scale is None else scale
        self._softcap = softcap
        self._is_interleaved = is_interleaved
        self.rotation = rotation
        self.window = sliding_window
        self._context = context
        self._library = library
        self._form = AttentionForm(num_heads, num_kv_heads, head_dim, self._scale, sliding_window, softcap)

    @property
    def is_plain(self) -> bool:
        """Whether scores are those of kernels/decoder_layer.py: of heads without norm and sinks, rotated by halves, neither scaled by a
        number of their own nor capped, over pages that are all here, by kernels of ours."""
        is_changed = self._is_interleaved or self._softcap or self._scale != self.head_dim**-0.5
        is_elsewhere = self._context is not None or self._library is not None
        return self.q_norm is None and self.sinks is None and not is_changed and not is_elsewhere

    def set_kv_scales(self, k: float = 1.0, v: float = 1.0) -> None:
        """What a checkpoint says of keys and values in fp8; pages of another type have none."""
        self.kv_scales = KVScales(k, v)

    def __call__(self, qkv: Tensor, kv: LayerKV, step: AttentionStep) -> Tensor:
        q, k, v = torch.split(qkv.view(qkv.shape[0], -1, self.head_dim), self.head_counts, dim=1)
        norms = None
        if isinstance(self.q_norm, RMSNorm) and isinstance(self.k_norm, RMSNorm):
            norms = QKNorm(self.q_norm.loaded_weight, self.k_norm.loaded_weight, self.q_norm.eps)
        elif self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        rotation = step.rotations[self.rotation]
        q = rope_and_cache(
            q,
            k,
            v,
            rotation.cos_sin,
            step.positions,
            kv.k,
            kv.v,
            step.slot_mapping,
            interleaved=self._is_interleaved,
            qk_norm=norms,
            kv_scales=self._scales(kv),
            plan=rotation.plan,
        )
        return self.attend(q, kv, step).view(-1, self._out_size)

    def attend(self, q: Tensor, kv: LayerKV, step: AttentionStep) -> Tensor:
        """q [T, num_heads, head_dim], rotated, over what is in the pages, the step's own keys included -> the same shape."""
        if step.context is not None:
            return self._in_context(q, kv, step.context, step.prompts)
        if step.library is not None:
            assert self._library is not None, "a step is a library's where layers are"
            return attend_by_library(self._library, q, kv, step.library, self._form)
        if step.prefill is None:
            return self._decode(q, kv, step.decode)
        if step.decode is None:
            return self._prefill(q, kv, step.prefill)
        n = step.num_decodes
        return torch.cat([self._decode(q[:n], kv, step.decode), self._prefill(q[n:], kv, step.prefill)])

    def _in_context(self, q: Tensor, kv: LayerKV, step: ContextStep, prompts: DealtPrompts | None) -> Tensor:
        assert self._context is not None, "a step is shared where layers are"
        ranks, scales = self._context.ranks, self._scales(kv)
        if self._context.deals_prompts:
            return attend_to_dealt(q, kv, step, prompts, ranks, self._scale, self.window, scales, softcap=self._softcap)
        return attend_in_context(q, kv, step, ranks, self._scale, self.window, scales, softcap=self._softcap)

    def _scales(self, kv: LayerKV) -> PageScales:
        return kv.scales or (self.kv_scales if kv.k.dtype == FP8 else UNSCALED)

    def _decode(self, q: Tensor, kv: LayerKV, rows: DecodeRows | None) -> Tensor:
        assert rows is not None, "a step has at least one row"
        return paged_attention(
            q,
            kv.k,
            kv.v,
            rows.block_tables,
            rows.seq_lens,
            self._scale,
            max_seq_len=rows.max_seq_len,
            sliding_window=self.window,
            sinks=None if self.sinks is None else self.sinks.scores,
            softcap=self._softcap,
            kv_scales=self._scales(kv),
            plan=rows.plans[self.window],
        )

    def _prefill(self, q: Tensor, kv: LayerKV, rows: PrefillRows) -> Tensor:
        return prefill_attention(
            q,
            kv.k,
            kv.v,
            rows.block_tables,
            rows.seq_lens,
            rows.query_start_loc,
            self._scale,
            max_query_len=rows.max_query_len,
            max_seq_len=rows.max_seq_len,
            query_lens=rows.query_lens,
            seq_lens_host=rows.seq_lens_host,
            sliding_window=self.window,
            sinks=None if self.sinks is None else self.sinks.scores,
            softcap=self._softcap,
            kv_scales=self._scales(kv),
            plan=rows.plans[self.window],
        )
