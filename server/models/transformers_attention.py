"""Our paged attention as an attention implementation of `transformers`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from headway.server.layers.attention import Attention, AttentionStep, prepare_attention
from headway.server.layers.forward import ForwardBatch, LayerKV
from headway.server.layers.rope_config import NO_ROPE
from headway.server.layers.rotary import rope_table
from headway.server.models.base import BuildContext

NAME = "headway_paged"  # under which transformers finds it
STEP = "headway_step"  # the keyword by which a step reaches it, through all layers


@dataclass(frozen=True, slots=True)
class _Kind:
    """What sets one layer's attention apart from another's."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int
    scale: float | None
    softcap: float


class PagedAttention:
    """All layers' attention of one model. Transformers has rotated queries and keys when they come."""

    def __init__(self, context: BuildContext) -> None:
        self._table = rope_table(NO_ROPE, context.max_model_len, context.device)
        self._group = context.group
        self._kinds: dict[_Kind, Attention] = {}

    def begin(self, batch: ForwardBatch, kv: list[LayerKV]) -> PagedStep:
        return PagedStep(self, batch, kv)

    def of(self, kind: _Kind) -> Attention:
        found = self._kinds.get(kind)
        if found is None:
            found = self._kinds[kind] = Attention(
                kind.num_heads,
                kind.num_kv_heads,
                kind.head_dim,
                sliding_window=kind.window,
                scale=kind.scale,
                softcap=kind.softcap,
                context=self._group.context,
            )
        return found

    def prepare(self, batch: ForwardBatch, window: int, kv: LayerKV) -> AttentionStep:
        return prepare_attention(batch, [self._table], (window,), kv, self._group.context)


@dataclass(slots=True)
class PagedStep:
    """One step, planned for each sliding window when the first layer that has it asks."""

    attention: PagedAttention
    batch: ForwardBatch
    kv: list[LayerKV]
    _plans: dict[int, AttentionStep] = field(default_factory=dict)

    def attend(self, layer: int, kind: _Kind, qkv: Tensor) -> Tensor:
        """qkv [T, (num_heads + 2 num_kv_heads) * head_dim] -> [T, num_heads * head_dim]."""
        pages = self.kv[layer]
        plan = self._plans.get(kind.window)
        if plan is None:
            plan = self._plans[kind.window] = self.attention.prepare(self.batch, kind.window, pages)
        return self.attention.of(kind)(qkv, pages, plan)


def register() -> None:
    """Makes it known to transformers; safe to repeat. Masks are not made for it, since transformers has none under its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, paged_attention_forward)


def paged_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """query [1, Hq, T, D], key and value [1, Hkv, T, D] -> [1, T, Hq, D]. Raises ValueError for attention of another kind than ours."""
    step: PagedStep | None = others.get(STEP)
    name = type(module).__name__
    if step is None:
        raise ValueError(f"{name} does not hand on what attention needs of a step")
    if attention_mask is not None or is_causal is False or getattr(module, "is_causal", True) is False:
        raise ValueError(f"{name} attends by a mask of its own")
    if strange := [key for key in ("s_aux", "sinks", "position_bias", "alibi", "head_mask") if others.get(key) is not None]:
        raise ValueError(f"{name} attends with {strange[0]}, which is not done")
    num_heads, num_tokens, head_dim = query.shape[1:]
    if value.shape != key.shape or key.shape[3] != head_dim or query.shape[0] != 1:
        raise ValueError(f"{name} has queries {tuple(query.shape)}, keys {tuple(key.shape)} and values {tuple(value.shape)}")
    kind = _Kind(num_heads, key.shape[1], head_dim, sliding_window or 0, scaling, softcap or 0.0)
    dtype = value.dtype
    rows = [part.squeeze(0).transpose(0, 1).to(dtype) for part in (query, key, value)]
    qkv = torch.cat(rows, dim=1).view(num_tokens, -1)
    out = step.attend(int(module.layer_idx), kind, qkv)  # type: ignore[arg-type]
    return out.view(1, num_tokens, num_heads, head_dim), None
