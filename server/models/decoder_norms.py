"""The norms of a decoder, of the kind that its config names: of the residual stream, and of queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor

from headway.server.layers.linear import QKVParallelLinear
from headway.server.layers.norm import HeadLayerNorm, LayerNorm, RMSNorm, WholeRMSNorm
from headway.server.models.base import BuildContext, DecoderConfig


def stream_norm(config: DecoderConfig, context: BuildContext) -> RMSNorm | LayerNorm:
    """A norm of the residual stream."""
    size, eps, device = config.hidden_size, config.norm_eps, context.device
    if config.norm == "layer":
        return LayerNorm(size, eps, has_bias=config.norm_bias, dtype=context.dtype, device=device)
    return RMSNorm(size, eps, dtype=_dtype(config, context), device=device)


def _dtype(config: DecoderConfig, context: BuildContext) -> torch.dtype:
    """Of the weights of RMS norms."""
    return torch.float32 if config.norm == "exact_rms" else context.dtype


def normed(norm: RMSNorm | LayerNorm | None, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
    """(what a branch reads, the stream), of a stream that is ``hidden + residual``. Without a norm a branch reads the stream itself."""
    if residual is None:
        return hidden if norm is None else norm(hidden), hidden
    if norm is None:
        total = hidden + residual
        return total, total
    return norm.add(hidden, residual)


def qk_norms(
    config: DecoderConfig, qkv: QKVParallelLinear, context: BuildContext
) -> tuple[RMSNorm, RMSNorm] | tuple[WholeRMSNorm, WholeRMSNorm] | tuple[HeadLayerNorm, HeadLayerNorm]:
    """Of this rank's heads, which are those of ``qkv``."""
    eps, device, dim, group = config.norm_eps, context.device, config.head_dim, context.group
    spans = (
        (config.num_heads, group.rank * qkv.num_heads, qkv.num_heads),
        (config.num_kv_heads, group.rank * config.num_kv_heads // group.size, qkv.num_kv_heads),
    )
    if config.norm == "layer":
        q, k = (HeadLayerNorm(count, (first, own), dim, eps, dtype=context.dtype, device=device) for count, first, own in spans)
        return q, k
    if config.has_whole_qk_norm:
        a, b = (WholeRMSNorm(count * dim, (first * dim, own * dim), eps, device=device, group=group) for count, first, own in spans)
        return a, b
    dtype = _dtype(config, context)
    return RMSNorm(dim, eps, dtype=dtype, device=device), RMSNorm(dim, eps, dtype=dtype, device=device)
