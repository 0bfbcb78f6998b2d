"""What a forward pass needs beside the weights, passed explicitly from the model runner down to the attention layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from headway.kernels.kv_cache import TokenScales, split_int8_blocks
from headway.kernels.plans import LoraPlan


class LayerWatcher(Protocol):
    """Follows a forward pass."""

    def on_layer(self) -> None:
        """One layer more has written its pages, or will have when the device comes to here."""
        ...


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """What a model says of all T tokens of a step, where it computes that together with its layers."""

    logits: Tensor  # [T, V] fp32, as of Model.logits
    token_ids: Tensor  # [T] int64, as kernels.sampling.sample_tokens chooses without draws


@dataclass(slots=True)
class ForwardBatch:
    """One step's tensors on the device. Filled by the model runner; layers only read it, but for ``head``.

    Rows are ordered: the ``num_decodes`` rows with one query token first, then the rows with more. T is the number of query
    tokens of all rows, B the number of rows, M the widest block table.
    """

    positions: Tensor  # [T] int64, position of each query token in its sequence
    slot_mapping: Tensor  # [T] int64, block_id * block_size + offset: where each token's K and V are written; -1: nowhere
    query_start_loc: Tensor  # [B + 1] int32, first query token of each row
    seq_lens: Tensor  # [B] int32, tokens in the sequence with those of this step
    block_tables: Tensor  # [B, M] int32; behind the blocks of a row's own tokens is any block
    num_decodes: int  # rows [0, num_decodes) have exactly one query token
    max_query_len: int  # over all rows
    max_seq_len: int  # over all rows
    logits_indices: Tensor  # [L] int64, query tokens whose logits are wanted
    query_lens: list[int]  # [B], on the host, for implementations that loop over rows
    seq_lens_host: list[int]  # [B], on the host
    lora: LoraPlan | None = None  # the step's adapters, None where no row has one
    token_types: Tensor | None = None  # [T] int64, which of two texts each token belongs to; None: there is one
    watcher: LayerWatcher | None = None  # of somebody who waits for what this step writes
    wants_head: bool = False  # for all tokens, none of which has an adapter that changes it
    head: HeadOutput | None = None  # filled by a model that was asked and computes it with its layers; None: ask its head


@dataclass(slots=True)
class LayerKV:
    """One layer's pages. Both [num_blocks, block_size, num_kv_heads, head_dim] in the cache dtype. Owned by the runner.

    ``v`` is ``k`` itself where keys serve as values too."""

    k: Tensor
    v: Tensor
    scales: TokenScales | None = None  # of pages in int8
    blocks: tuple[Tensor, ...] = ()  # what these are views of

    @staticmethod
    def of_int8_blocks(k: Tensor, v: Tensor, block_size: int, num_kv_heads: int, head_dim: int) -> LayerKV:
        """``k`` and ``v`` are memory as headway.kernels.kv_cache.int8_blocks says."""
        (keys, k_scales), (values, v_scales) = (split_int8_blocks(blocks, block_size, num_kv_heads, head_dim) for blocks in (k, v))
        return LayerKV(keys, values, TokenScales(k_scales, v_scales), (k, v))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Each that has memory of its own, blocks first and contiguous, for whoever moves or counts it."""
        return self.blocks or ((self.k,) if self.v is self.k else (self.k, self.v))
