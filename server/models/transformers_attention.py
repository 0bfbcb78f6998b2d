"""Our paged attention as an attention implementation of `transformers`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from headway.server.errors import ModelSourceError
from headway.server.layers.attention import Attention, AttentionStep, GivenSinks, prepare_attention
from headway.server.layers.forward import ForwardBatch, LayerKV
from headway.server.layers.rope_config import NO_ROPE
from headway.server.layers.rotary import rope_table
from headway.server.models.base import BuildContext

NAME = "headway_paged"  # under which transformers finds it
STEP = "headway_step"  # the keyword by which a step reaches it, through all layers
# Tensors that come along and change nothing. Any other may: a bias of scores, which blocks a token sees.
_HARMLESS = ("position_ids", "cache_position")


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
        self.group = context.group
        self._library = context.attention
        self._kinds: dict[_Kind, Attention] = {}
        self._with_sinks: dict[int, Attention] = {}

    @property
    def is_by_library(self) -> bool:
        return self._library is not None

    def begin(self, batch: ForwardBatch, kv: list[LayerKV]) -> PagedStep:
        return PagedStep(self, batch, kv)

    def of(self, kind: _Kind) -> Attention:
        found = self._kinds.get(kind)
        if found is None:
            found = self._kinds[kind] = self._made(kind)
        return found

    def of_layer(self, layer: int, kind: _Kind, sinks: Tensor) -> Attention:
        """``sinks``: of this rank's heads, which are another tensor once the model was loaded anew."""
        found = self._with_sinks.get(layer)
        if found is None:
            found = self._with_sinks[layer] = self._made(kind)
        found.sinks = GivenSinks(sinks)
        return found

    def _made(self, kind: _Kind) -> Attention:
        return Attention(
            kind.num_heads,
            kind.num_kv_heads,
            kind.head_dim,
            sliding_window=kind.window,
            scale=kind.scale,
            softcap=kind.softcap,
            context=self.group.context,
            library=self._library,
        )

    def prepare(self, batch: ForwardBatch, window: int, kv: LayerKV) -> AttentionStep:
        return prepare_attention(batch, [self._table], (window,), kv, self.group.context, self._library)


@dataclass(slots=True)
class PagedStep:
    """One step, planned for each sliding window when the first layer that has it asks."""

    attention: PagedAttention
    batch: ForwardBatch
    kv: list[LayerKV]
    _plans: dict[int, AttentionStep] = field(default_factory=dict)
    _seen: set[int] = field(default_factory=set)

    def pages(self, layer: int) -> LayerKV:
        """Of each layer once: a second call for one would overwrite what the first has written."""
        if layer >= len(self.kv) or layer in self._seen:
            raise ModelSourceError(
                f"This model can't be served through transformers: layer {layer} of {len(self.kv)} attends, or more than once."
            )
        self._seen.add(layer)
        return self.kv[layer]

    def end(self) -> None:
        """Raises ModelSourceError for a model with layers that attend to nothing: what they know of earlier tokens is in no page."""
        if len(self._seen) < len(self.kv):
            missing = min(set(range(len(self.kv))) - self._seen)
            raise ModelSourceError(
                f"This model can't be served through transformers: layer {missing} of {len(self.kv)} doesn't attend, and what it keeps "
                "of earlier tokens is in no page."
            )

    @property
    def num_ranks(self) -> int:
        return self.attention.group.size

    def own_heads(self, rows: Tensor) -> Tensor:
        """[T, heads, D] -> this rank's share of the heads, where a plan gives all of them to each: it norms them together."""
        return rows.chunk(self.num_ranks, dim=1)[self.attention.group.rank]

    def all_heads(self, out: Tensor) -> Tensor:
        """[T, heads * D] of each rank's heads -> those of all."""
        return self.attention.group.all_gather(out, dim=1)

    def own_sinks(self, sinks: Tensor, num_heads: int) -> Tensor:
        """Of all heads, or of this rank's alone where the plan has cut them -> [num_heads] of this rank."""
        sinks = sinks.reshape(-1)
        return sinks if len(sinks) == num_heads else sinks.chunk(self.num_ranks)[self.attention.group.rank]

    def attend(self, layer: int, pages: LayerKV, kind: _Kind, qkv: Tensor, sinks: Tensor | None) -> Tensor:
        """qkv [T, (num_heads + 2 num_kv_heads) * head_dim] and the sinks of its heads [num_heads] -> [T, num_heads * head_dim]."""
        plan = self._plans.get(kind.window)
        if plan is None:
            plan = self._plans[kind.window] = self.attention.prepare(self.batch, kind.window, pages)
        attention = (
            self.attention.of(kind) if sinks is None else self.attention.of_layer(layer, kind, self.own_sinks(sinks, kind.num_heads))
        )
        return attention(qkv, pages, plan)


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
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """query [1, Hq, T, D], key and value [1, Hkv, T, D], s_aux (sinks) with a score of each head of the model -> [1, T, Hq, D].

    Raises ModelSourceError for attention that ours is not."""
    step: PagedStep | None = others.get(STEP)
    if step is None:
        raise _refusal(module, "does not hand on what attention needs of a step")
    if attention_mask is not None or is_causal is False or getattr(module, "is_causal", True) is False:
        raise _refusal(module, "attends by a mask of its own")
    if strange := [key for key, value in others.items() if isinstance(value, Tensor) and key not in _HARMLESS]:
        raise _refusal(module, f"attends with {strange[0]}")
    if s_aux is not None and step.attention.group.context is not None:
        raise _refusal(module, "has attention sinks, which parts of a sequence have no way to share: leave out what shares it")
    if s_aux is not None and step.attention.is_by_library:
        raise _refusal(module, "has attention sinks, which only Headway's own kernels take: leave out --attention-backend")
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    pages = step.pages(layer)
    num_kv_heads, head_dim = pages.k.shape[2:]
    num_tokens, has_all = query.shape[2], key.shape[1] == num_kv_heads * step.num_ranks
    own = key.shape[1] // step.num_ranks if has_all else key.shape[1]
    if query.shape[0] != 1 or value.shape != key.shape or key.shape[2:] != (num_tokens, head_dim) or own != num_kv_heads:
        shapes = f"queries {tuple(query.shape)}, keys {tuple(key.shape)} and values {tuple(value.shape)}"
        raise _refusal(module, f"has {shapes}, and its config.json speaks of {num_kv_heads} key-value heads of {head_dim} on a device")
    # Some rotate in fp32, and leave it at that.
    rows = [part.squeeze(0).transpose(0, 1).to(value.dtype) for part in (query, key, value)]
    rows = [step.own_heads(part) for part in rows] if has_all else rows
    kind = _Kind(rows[0].shape[1], num_kv_heads, head_dim, sliding_window or 0, scaling, softcap or 0.0)
    out = step.attend(layer, pages, kind, torch.cat(rows, dim=1).view(num_tokens, -1), s_aux)
    out = step.all_heads(out) if has_all else out
    return out.view(1, num_tokens, -1, head_dim), None


def _refusal(module: nn.Module, why: str) -> ModelSourceError:
    return ModelSourceError(f"This model can't be served through transformers: {type(module).__name__} {why}.")
