"""Attention in which the tokens of a text see each other in both directions: no cache, whole texts of a step side by side."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from headway.server.layers.forward import ForwardBatch

# Texts are padded to the longest of their group when the shortest has at least this share of its tokens. On a CPU padding costs more
# than a call for each length: 64 texts of 8 to 24 tokens take 1.7 ms a layer in groups of one length, 2.3 ms in groups of 0.7, 2.1 ms
# one by one; 20 texts of 10 to 250 tokens 14.4, 20.1 and 14.6 ms (one core, 2026-11). A GPU waits for each call instead.
_LEAST_SHARE = {"cpu": 1.0, "cuda": 0.7}


@dataclass(slots=True)
class _Group:
    """Neighbouring rows of the step. ``padded`` None: all have the same length."""

    start: int  # first token
    stop: int
    num_rows: int
    length: int  # of the longest
    padded: Tensor | None  # [num_rows * length] int64: token of the group at each place
    kept: Tensor | None  # [stop - start] int64: place of each token
    mask: Tensor | None  # [num_rows, 1, 1, length]: which places hold a token
    near: dict[int, Tensor] = field(default_factory=dict)  # by window: ``mask`` where a token sees its neighbourhood only


@dataclass(slots=True)
class BidirectionalStep:
    """What all layers of a step share."""

    groups: list[_Group]


def prepare_bidirectional(batch: ForwardBatch) -> BidirectionalStep:
    """Groups rows of similar length, which should be neighbours: whoever orders the step's rows sorts them."""
    lengths, device = batch.query_lens, batch.positions.device
    least_share = _LEAST_SHARE[device.type]
    groups, first, start = [], 0, 0
    for i in range(1, len(lengths) + 1):
        span = lengths[first : i + 1]
        if i == len(lengths) or min(span) < least_share * max(span):
            group = _group(lengths[first:i], start, device)
            groups.append(group)
            first, start = i, group.stop
    return BidirectionalStep(groups)


def _group(lengths: list[int], start: int, device: torch.device) -> _Group:
    num_rows, longest, total = len(lengths), max(lengths), sum(lengths)
    if num_rows * longest == total:
        return _Group(start, start + total, num_rows, longest, None, None, None)
    sizes = torch.tensor(lengths, device=device)
    starts = sizes.cumsum(0) - sizes
    columns = torch.arange(longest, device=device)
    is_token = columns < sizes[:, None]
    padded = torch.where(is_token, starts[:, None] + columns, 0).flatten()
    return _Group(start, start + total, num_rows, longest, padded, is_token.flatten().nonzero()[:, 0], is_token[:, None, None])


def bidirectional_attention(qkv: Tensor, num_heads: int, head_dim: int, step: BidirectionalStep, window: int = 0) -> Tensor:
    """qkv [T, 3 * num_heads * head_dim] -> [T, num_heads * head_dim]. ``window``: how far a token sees to either side; 0: everything."""
    parts = [_attend(qkv[group.start : group.stop], num_heads, head_dim, group, window) for group in step.groups]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _attend(qkv: Tensor, num_heads: int, head_dim: int, group: _Group, window: int) -> Tensor:
    if group.padded is not None:
        qkv = qkv[group.padded]
    q, k, v = qkv.view(group.num_rows, group.length, 3, num_heads, head_dim).permute(2, 0, 3, 1, 4)
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=_mask(group, window, qkv.device))
    out = out.transpose(1, 2).reshape(group.num_rows * group.length, num_heads * head_dim)
    return out if group.kept is None else out[group.kept]


def _mask(group: _Group, window: int, device: torch.device) -> Tensor | None:
    """Made for the first layer with this window; as large as the square of the length."""
    if not 0 < window < group.length - 1:
        return group.mask
    if window not in group.near:
        places = torch.arange(group.length, device=device)
        is_near = (places[:, None] - places).abs() <= window
        group.near[window] = is_near if group.mask is None else group.mask & is_near
    return group.near[window]
