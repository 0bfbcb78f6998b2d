"""Whole layers of a decoder in one call, for steps in which each row has one token. For layers whose weights are grouped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor

from headway.kernels.backend import implementation
from headway.kernels.checks import check_shape
from headway.kernels.grouped_lora import GroupedSlots
from headway.kernels.grouped_matmul import PackedGrouped
from headway.kernels.plans import LoraPlan


@dataclass(frozen=True, slots=True)
class GroupedLinearParts:
    weight: PackedGrouped
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class LayerParts:
    """A pre-norm layer with a gated feed-forward part (SiLU), all in fp32 between its products."""

    input_norm: Tensor  # [H]
    qkv: GroupedLinearParts  # H -> (num_heads + 2 num_kv_heads) head_dim
    o: GroupedLinearParts  # num_heads head_dim -> H
    post_attention_norm: Tensor  # [H]
    gate_up: GroupedLinearParts  # H -> 2 I
    down: GroupedLinearParts  # I -> H
    eps: float
    num_heads: int
    num_kv_heads: int
    head_dim: int
    sliding_window: int  # 0: none


@dataclass(frozen=True, slots=True)
class LayerTokens:
    """Which tokens a step has, one a row: what all its layers share. As rope_and_cache and paged_attention take them."""

    cos_sin: Tensor  # [P, rotary_dim] fp32
    positions: Tensor  # [B] int64
    slot_mapping: Tensor  # [B] int64
    block_tables: Tensor  # [B, M] int32
    seq_lens: Tensor  # [B] int32


@dataclass(frozen=True, slots=True)
class LayerSlots:
    """The adapters of a layer's linears."""

    qkv: GroupedSlots
    o: GroupedSlots
    gate_up: GroupedSlots
    down: GroupedSlots


@dataclass(frozen=True, slots=True)
class FusedSlots:
    slots: LayerSlots
    data: Any  # owned by the implementation


@dataclass(frozen=True, slots=True)
class FusedLayer:
    parts: LayerParts
    data: Any  # owned by the implementation
    implementation: ModuleType


@dataclass(frozen=True, slots=True)
class EndParts:
    """What is around a model's layers, in fp32: behind the last a norm and a head without bias."""

    table: Tensor | None  # [V, H] contiguous, whose rows the first layer reads; None: it reads something else
    norm: Tensor  # [H]
    head: PackedGrouped  # H -> V, its columns in order
    eps: float


@dataclass(frozen=True, slots=True)
class FusedEnd:
    parts: EndParts
    data: Any  # owned by the implementation
    implementation: ModuleType


@dataclass(frozen=True, slots=True)
class PlacedLayer:
    """A layer with its pages, which are contiguous, in fp32 or bf16, or those of kv_cache.split_int8_blocks."""

    layer: FusedLayer
    adapters: FusedSlots | None  # there for steps that have some
    k_cache: Tensor
    v_cache: Tensor
    plan: int  # which of a call's plans is that of its sliding window and rotation


@dataclass(frozen=True, slots=True)
class PlacedLayers:
    data: Any  # owned by the implementation
    implementation: ModuleType


def fuse_layer(parts: LayerParts) -> FusedLayer | None:
    """None where no implementation is faster than the operations one by one. The tensors of ``parts`` must not move afterwards."""
    module = implementation("decoder_layer", parts.input_norm.device.type)
    data = module.fuse_layer(parts)
    return None if data is None else FusedLayer(parts, data, module)


def fuse_slots(layer: FusedLayer, slots: LayerSlots) -> FusedSlots | None:
    """Adapters as ``decoder_layer`` takes them; None where it can't, and the layer's operations are to be called one by one."""
    data = layer.implementation.fuse_slots(slots)
    return None if data is None else FusedSlots(slots, data)


def fuse_end(parts: EndParts) -> FusedEnd | None:
    """As fuse_layer, for ``layers_to_logits``."""
    module = implementation("decoder_layer", parts.norm.device.type)
    data = module.fuse_end(parts)
    return None if data is None else FusedEnd(parts, data, module)


def prepare_layers(layer: FusedLayer, tokens: LayerTokens, block_size: int, lora: LoraPlan | None = None) -> Any:
    """The ``plan`` of a step for all layers that are shaped as ``layer`` and have its sliding window. ``lora``: the step's adapters."""
    num_rows = len(tokens.positions)
    check_shape("block_tables", tokens.block_tables, num_rows, -1)
    check_shape("seq_lens", tokens.seq_lens, num_rows)
    return layer.implementation.prepare_layers(layer.parts, tokens, block_size, lora)


def place_layers(layers: Sequence[PlacedLayer]) -> PlacedLayers:
    """At least one, of one kind of pages, in the order in which they follow each other. Holds no reference to the pages, which must
    stay where they are for as long as the result is used."""
    module = layers[0].layer.implementation
    return PlacedLayers(module.place_layers(layers), module)


def decoder_layers(hidden: Tensor, residual: Tensor | None, layers: PlacedLayers, plans: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """(branch output, residual) of the last layer, whose sum is its value, from those of the layer before; both may be overwritten.

    They are [B, H] fp32, contiguous; ``residual`` is None before the first layer. ``plans``: see PlacedLayer. The result of a layer is that
    of fused_add_rms_norm, grouped_linear, rope_and_cache (which writes the pages), paged_attention, grouped_linear, fused_add_rms_norm,
    grouped_linear, silu_and_mul and grouped_linear one after another, with add_grouped_lora behind each grouped_linear where the plans have
    adapters. Nothing is checked here: with one row, the checks took a fiftieth of the time.
    """
    out: tuple[Tensor, Tensor] = layers.implementation.decoder_layers(hidden, residual, layers.data, plans)
    return out


def layers_to_logits(
    start: Tensor, layers: PlacedLayers, plans: Sequence[Any], end: FusedEnd, *, has_token_ids: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(hidden states [B, H] behind the last norm, logits [B, V] fp32, the most likely tokens [B] int64) of all layers up to a model's last.

    As ``decoder_layers`` of ``start`` [B, H], which may be overwritten, followed by fused_add_rms_norm, grouped_linear and sample_tokens
    without draws. With ``has_token_ids`` ``start`` is token ids [B] int64, whose rows of the table the first layer reads; raises IndexError
    where there is no such row."""
    out: tuple[Tensor, Tensor, Tensor] = layers.implementation.layers_to_logits(start, layers.data, plans, end.data, has_token_ids)
    return out
