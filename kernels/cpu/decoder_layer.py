"""Layers of a decoder in one compiled call: with one row, the calls of nine operations take longer than the operations.

native/README.md has what was measured.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headway.kernels.cpu.grouped_lora import Slots, lora_rows
from headway.kernels.cpu.grouped_matmul import Tiles
from headway.kernels.cpu.native import library
from headway.kernels.cpu.native.library import (
    DecodeShape,
    EndOutput,
    LayerAdapters,
    LayerStep,
    LayerWeights,
    LoraRows,
    ModelEnd,
    ModelStart,
    function,
)
from headway.kernels.decoder_layer import EndParts, GroupedLinearParts, LayerParts, LayerSlots, LayerTokens, PlacedLayer
from headway.kernels.plans import LoraPlan


@dataclass(frozen=True, slots=True)
class LayerPlan:
    described: LayerStep  # points into ``tokens``
    tokens: LayerTokens
    lora_rows: LoraRows | None  # points into ``lora``
    lora: LoraPlan | None


@dataclass(frozen=True, slots=True)
class Placed:
    kernel: Callable[..., int]
    described: Any  # an array of library.PlacedLayer, which points into ``parts`` and pages
    parts: list[Any]


@dataclass(frozen=True, slots=True)
class Ends:
    table: Tensor | None
    described: ModelEnd


def fuse_layer(parts: LayerParts) -> LayerWeights | None:
    """See headway.kernels.decoder_layer.fuse_layer."""
    linears = (parts.qkv, parts.o, parts.gate_up, parts.down)
    vectors = (parts.input_norm, parts.post_attention_norm, *(linear.bias for linear in linears if linear.bias is not None))
    fits = all(vector.dtype == torch.float32 and vector.is_contiguous() for vector in vectors)
    if function("decoder_layers", torch.float32) is None or not fits or not all(isinstance(it.weight.data, Tiles) for it in linears):
        return None
    return LayerWeights(
        parts.input_norm.data_ptr(),
        parts.post_attention_norm.data_ptr(),
        *(linear.weight.data.described for linear in linears),
        *(_pointer(linear) for linear in linears),
        parts.eps,
    )


def fuse_slots(slots: LayerSlots) -> LayerAdapters | None:
    """See headway.kernels.decoder_layer.fuse_slots."""
    data = [it.data for it in (slots.qkv, slots.o, slots.gate_up, slots.down)]
    return LayerAdapters(*(it.described for it in data)) if all(isinstance(it, Slots) for it in data) else None


def fuse_end(parts: EndParts) -> Ends | None:
    """See headway.kernels.decoder_layer.fuse_end."""
    tensors = [parts.norm] if parts.table is None else [parts.norm, parts.table]
    fits = all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in tensors) and isinstance(parts.head.data, Tiles)
    if function("decoder_layers", torch.float32) is None or not fits:
        return None
    return Ends(parts.table, ModelEnd(parts.norm.data_ptr(), parts.head.data.described, parts.eps))


def prepare_layers(parts: LayerParts, tokens: LayerTokens, block_size: int, lora: LoraPlan | None) -> LayerPlan:
    """See headway.kernels.decoder_layer.prepare_layers."""
    shape = DecodeShape(
        rows=len(tokens.positions),
        q_heads=parts.num_heads,
        kv_heads=parts.num_kv_heads,
        dim=parts.head_dim,
        block_size=block_size,
        table_width=tokens.block_tables.stride(0),
        q_stride=parts.qkv.weight.out_features,
        window=parts.sliding_window,
        scale=parts.head_dim**-0.5,
        softcap=0.0,
    )
    tensors = (tokens.cos_sin, tokens.positions, tokens.slot_mapping, tokens.block_tables, tokens.seq_lens)
    described = LayerStep(*(tensor.data_ptr() for tensor in tensors), tokens.cos_sin.shape[1], shape)
    return LayerPlan(described, tokens, None if lora is None else lora_rows(lora), lora)


def place_layers(layers: Sequence[PlacedLayer]) -> Placed:
    """See headway.kernels.decoder_layer.place_layers."""
    kernel = function("decoder_layers", torch.float32, layers[0].k_cache.dtype)
    assert kernel is not None, "layers are fused for it"
    parts = [(it.layer.data, None if it.adapters is None else it.adapters.data) for it in layers]
    described = (library.PlacedLayer * len(layers))()
    for it, (weights, slots), to in zip(layers, parts, described, strict=True):
        to.weights, to.adapters = ctypes.addressof(weights), None if slots is None else ctypes.addressof(slots)
        to.k_cache, to.v_cache, to.step = it.k_cache.data_ptr(), it.v_cache.data_ptr(), it.plan
    return Placed(kernel, described, parts)


def decoder_layers(hidden: Tensor, residual: Tensor | None, layers: Placed, plans: Sequence[LayerPlan]) -> tuple[Tensor, Tensor]:
    """See headway.kernels.decoder_layer.decoder_layers."""
    is_first = residual is None
    if residual is None:
        residual = torch.empty_like(hidden)
    _run(hidden, residual, layers, plans, is_first)
    return hidden, residual


def layers_to_logits(
    start: Tensor, layers: Placed, plans: Sequence[LayerPlan], ends: Ends, has_token_ids: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See headway.kernels.decoder_layer.layers_to_logits."""
    num_rows, head = len(start), ends.described.head
    residual, logits = torch.empty(num_rows, head.in_features), torch.empty(num_rows, head.out_features)
    token_ids = torch.empty(num_rows, dtype=torch.int64)
    hidden, described = start, None
    if has_token_ids:
        assert ends.table is not None, "there is a table to look them up in"
        hidden = torch.empty(num_rows, head.in_features)
        described = ModelStart(ends.table.data_ptr(), len(ends.table), start.data_ptr())
    out = EndOutput(logits.data_ptr(), token_ids.data_ptr())
    if _run(hidden, residual, layers, plans, True, described, ends.described, out):
        raise IndexError("a token id is outside the model's vocabulary")
    return hidden, logits, token_ids


def _run(
    hidden: Tensor,
    residual: Tensor,
    layers: Placed,
    plans: Sequence[LayerPlan],
    is_first: bool,
    start: ModelStart | None = None,
    end: ModelEnd | None = None,
    out: EndOutput | None = None,
) -> int:
    """Returns what the kernel does: not 0 where a token id has no row in the table."""
    steps = (LayerStep * len(plans))(*(plan.described for plan in plans))
    failure: int = layers.kernel(
        *(hidden.data_ptr(), residual.data_ptr(), layers.described, len(layers.described), steps),
        *(plans[0].lora_rows, is_first, start, end, out),
    )
    return failure


def _pointer(linear: GroupedLinearParts) -> int | None:
    return None if linear.bias is None else linear.bias.data_ptr()
