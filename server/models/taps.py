"""What some layers of a decoder read, kept for whoever guesses from it what the decoder will say."""

from __future__ import annotations

import torch
from torch import Tensor


class LayerTaps:
    """Of each step's tokens the residual stream before the layers that are tapped, side by side in their order. It lies where CUDA graphs
    may write, and is overwritten by the next step."""

    def __init__(self, layers: tuple[int, ...], max_tokens: int, hidden_size: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self._columns = {layer: slice(at * hidden_size, (at + 1) * hidden_size) for at, layer in enumerate(layers)}
        self._kept = torch.zeros(max_tokens, len(layers) * hidden_size, dtype=dtype, device=device)

    def take(self, layer: int, hidden: Tensor, residual: Tensor | None) -> None:
        """What ``layer`` is about to read: the sum of both, [T, H]."""
        columns = self._columns.get(layer)
        if columns is None:
            return
        kept = self._kept[: len(hidden), columns]
        if residual is None:
            kept.copy_(hidden)
        else:
            torch.add(hidden, residual, out=kept)

    def of(self, num_tokens: int) -> Tensor:
        """[T, number of layers * H], of the first tokens of the newest step."""
        return self._kept[:num_tokens]
