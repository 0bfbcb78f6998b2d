"""From hidden states to what was asked for: vectors of texts or of their tokens, scores of labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from headway.server.loading.pooling_recipe import Activation, PoolingRecipe
from headway.server.models.base import Model, Projection
from headway.server.types import Pooled, PoolingParams

_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "softmax": lambda scores: scores.softmax(-1),
    "sigmoid": torch.sigmoid,
    "identity": lambda scores: scores,
}


class NotFinite(Exception):
    """The model gave values that are no numbers."""


class Pooler:
    """Knows the model's recipe; holds nothing of a request."""

    def __init__(self, recipe: PoolingRecipe, projections: Sequence[Projection], dtype: torch.dtype) -> None:
        """``dtype``: the model's."""
        self._recipe = recipe
        self._dtype = dtype
        self._projections = projections

    def __call__(self, model: Model, hidden: Tensor, num_tokens: Sequence[int], params: Sequence[PoolingParams]) -> list[Pooled]:
        """``hidden`` [T, H] of texts one after the other, of ``num_tokens`` each -> a result a text. Raises NotFinite."""
        alike: dict[PoolingParams, list[int]] = {}
        for i, asked in enumerate(params):
            alike.setdefault(asked, []).append(i)
        found: dict[int, Pooled] = {}
        states: Tensor | None = None  # of all texts
        for asked, rows in alike.items():
            if asked.task == "token_embed":
                ends = list(accumulate(num_tokens))
                found |= {i: self._tokens(hidden[ends[i] - num_tokens[i] : ends[i]], asked) for i in rows}
            else:
                states = self._states(hidden, num_tokens) if states is None else states
                chosen = states[rows]
                values = self._vectors(chosen.float(), asked) if asked.task == "embed" else self._scores(model, chosen, asked)
                found |= zip(rows, map(_packed, _on_host(values)), strict=True)
        return [found[i] for i in range(len(params))]

    def _states(self, hidden: Tensor, num_tokens: Sequence[int]) -> Tensor:
        """[B, H]: the one that stands for each text."""
        kind, sizes = self._recipe.kind, torch.tensor(num_tokens, device=hidden.device)
        if kind == "cls":
            return hidden[sizes.cumsum(0) - sizes]
        if kind == "last":
            return hidden[sizes.cumsum(0) - 1]
        return torch.segment_reduce(hidden.float(), kind, lengths=sizes)

    def _tokens(self, hidden: Tensor, asked: PoolingParams) -> Pooled:
        values = _on_host(self._vectors(hidden.float(), asked))
        return Pooled(_packed(values).data, len(values))

    def _vectors(self, states: Tensor, asked: PoolingParams) -> Tensor:
        for projection in self._projections:
            states = functional.linear(states, projection.weight, projection.bias)
            states = states.tanh() if projection.has_tanh else states
        vectors = states[:, : asked.dimensions or self._recipe.dimensions]
        normalizes = self._recipe.normalizes if asked.use_activation is None else asked.use_activation
        return functional.normalize(vectors, dim=-1) if normalizes else vectors

    def _scores(self, model: Model, states: Tensor, asked: PoolingParams) -> Tensor:
        scores = model.logits(states.to(self._dtype))
        return scores if asked.use_activation is False else _ACTIVATIONS[self._recipe.activation](scores)


def _on_host(values: Tensor) -> Tensor:
    if not values.isfinite().all():
        raise NotFinite("the model's result for it holds values that are not finite numbers; --dtype float32 has the widest range")
    return values.cpu()


def _packed(values: Tensor) -> Pooled:
    return Pooled(values.contiguous().numpy().astype("<f4", copy=False).tobytes())
