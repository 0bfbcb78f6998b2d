"""A decoder's layer as one kernel call, in steps where that is all the same as its parts one by one: one token a row."""

from __future__ import annotations

from torch import Tensor

from headway.kernels.decoder_layer import (
    FusedLayer,
    FusedSlots,
    GroupedLinearParts,
    LayerParts,
    LayerSlots,
    LayerTokens,
    decoder_layer,
    fuse_layer,
    fuse_slots,
    prepare_layers,
)
from headway.kernels.grouped_matmul import PackedGrouped
from headway.kernels.plans import LoraPlan
from headway.server.layers.attention import Attention, AttentionStep, DecodeRows
from headway.server.layers.forward import LayerKV
from headway.server.layers.linear import Linear
from headway.server.layers.norm import RMSNorm


def fused_layer(
    input_norm: RMSNorm, qkv: Linear, attention: Attention, o: Linear, post_attention_norm: RMSNorm, gate_up: Linear, down: Linear
) -> FusedLayer | None:
    """Of loaded layers, gate_up followed by a SiLU gate; None where there is no such kernel for them."""
    parts = [_grouped(linear) for linear in (qkv, o, gate_up, down)]
    if not attention.is_plain or any(part is None for part in parts):
        return None
    qkv_parts, o_parts, gate_up_parts, down_parts = (part for part in parts if part is not None)
    num_heads, num_kv_heads, _ = attention.head_counts
    return fuse_layer(
        LayerParts(
            input_norm=input_norm.loaded_weight,
            qkv=qkv_parts,
            o=o_parts,
            post_attention_norm=post_attention_norm.loaded_weight,
            gate_up=gate_up_parts,
            down=down_parts,
            eps=input_norm.eps,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=attention.head_dim,
            sliding_window=attention.window,
        )
    )


def fused_slots(layer: FusedLayer, qkv: Linear, o: Linear, gate_up: Linear, down: Linear) -> FusedSlots | None:
    """The adapters of the linears that ``layer`` was made of; None where the kernel does not take them."""
    slots = [None if it.adapters is None else it.adapters.grouped_slots for it in (qkv, o, gate_up, down)]
    found = [it for it in slots if it is not None]
    return fuse_slots(layer, LayerSlots(*found)) if len(found) == len(slots) else None


def run_fused(
    layer: FusedLayer,
    rotation: int,
    hidden: Tensor,
    residual: Tensor | None,
    kv: LayerKV,
    step: AttentionStep,
    rows: DecodeRows,
    lora: LoraPlan | None,
    adapters: FusedSlots | None,
) -> tuple[Tensor, Tensor]:
    """As models.decoder.DecoderLayer, whose attention has that rotation; ``rows`` are all of the step's. ``adapters`` are there where
    ``lora`` is."""
    key = layer.parts.sliding_window, rotation
    if key not in rows.layer_plans:
        tokens = LayerTokens(step.rotations[rotation].cos_sin, step.positions, step.slot_mapping, rows.block_tables, rows.seq_lens)
        rows.layer_plans[key] = prepare_layers(layer, tokens, kv.k.shape[1], lora)
    return decoder_layer(hidden, residual, layer, kv.k, kv.v, rows.layer_plans[key], adapters)


def _grouped(linear: Linear) -> GroupedLinearParts | None:
    """None for another kind of weight, one whose columns have an order, and a part of one whose other parts are on other ranks."""
    packed = linear.packed
    is_plain = isinstance(packed, PackedGrouped) and packed.order is None and linear.is_whole
    return GroupedLinearParts(packed, linear.packed_bias) if is_plain else None
