"""A layer of a decoder as the operations that it consists of, one by one. Defines what a fused one computes."""

from __future__ import annotations

import torch
from torch import Tensor

from headway.kernels.decoder_layer import EndParts, GroupedLinearParts, LayerParts, LayerSlots, LayerTokens
from headway.kernels.grouped_lora import GroupedSlots, add_grouped_lora
from headway.kernels.grouped_matmul import grouped_linear
from headway.kernels.kv_cache import UNSCALED, PageScales
from headway.kernels.plans import LoraPlan
from headway.kernels.reference.activation import silu_and_mul
from headway.kernels.reference.norm import fused_add_rms_norm
from headway.kernels.reference.paged_attention import paged_attention
from headway.kernels.reference.rope import rope_and_cache


def fuse_layer(parts: LayerParts) -> None:
    """Layers call the operations themselves."""
    del parts


def fuse_end(parts: EndParts) -> None:
    """As fuse_layer."""
    del parts


def decoder_layer(
    hidden: Tensor,
    residual: Tensor | None,
    parts: LayerParts,
    k_cache: Tensor,
    v_cache: Tensor,
    tokens: LayerTokens,
    kv_scales: PageScales = UNSCALED,
    adapters: tuple[LayerSlots, LoraPlan] | None = None,
) -> tuple[Tensor, Tensor]:
    """See headway.kernels.decoder_layer.decoder_layer; takes the step's tokens themselves for a plan, scales of any kind, and adapters
    with their plan."""
    lora = None
    own_slots: list[GroupedSlots | None] = [None] * 4
    if adapters is not None:
        slots, lora = adapters
        own_slots = [slots.qkv, slots.o, slots.gate_up, slots.down]
    of_qkv, of_o, of_gate_up, of_down = own_slots

    def apply(x: Tensor, linear: GroupedLinearParts, own: GroupedSlots | None) -> Tensor:
        out = grouped_linear(x, linear.weight, linear.bias)
        if own is not None and lora is not None:
            add_grouped_lora(out, x, own, lora)
        return out

    residual = torch.zeros_like(hidden) if residual is None else residual
    normed, residual = fused_add_rms_norm(hidden, residual, parts.input_norm, parts.eps)
    heads = apply(normed, parts.qkv, of_qkv).view(len(hidden), -1, parts.head_dim)
    q, k, v = torch.split(heads, [parts.num_heads, parts.num_kv_heads, parts.num_kv_heads], dim=1)
    q = rope_and_cache(q, k, v, tokens.cos_sin, tokens.positions, k_cache, v_cache, tokens.slot_mapping, kv_scales=kv_scales)
    attended = paged_attention(
        q,
        k_cache,
        v_cache,
        tokens.block_tables,
        tokens.seq_lens,
        parts.head_dim**-0.5,
        max_seq_len=int(tokens.seq_lens.max()),
        sliding_window=parts.sliding_window,
        kv_scales=kv_scales,
    )
    hidden = apply(attended.flatten(1), parts.o, of_o)
    normed, residual = fused_add_rms_norm(hidden, residual, parts.post_attention_norm, parts.eps)
    gated = silu_and_mul(apply(normed, parts.gate_up, of_gate_up))
    return apply(gated, parts.down, of_down), residual
