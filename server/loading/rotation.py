"""Rotation of the residual stream, folded into the weights: the same function, without the few channels that dwarf the others.

A channel 30 times as large as the rest takes an 8-bit scale for itself and rounds the others away. Where every branch reads the
stream through an RMS norm and a linear, and writes it through a linear, an orthogonal Q can be folded into both at no cost when
running (QuaRot, Ashkboos et al., arXiv:2404.00456): the norm's weight g moves into the linears behind it, rms(x Q) = rms(x), and

    embedding' = E Q     reader' = W diag(g) Q     writer' = Q^T W     writer's bias' = b Q     g' = 1
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from headway.kernels.hadamard import hadamard
from headway.server.models.names import ResidualStream, WeightName

_SEED = 0  # ranks must agree
_ROWS_A_PIECE = 512  # temporaries that stay near a core's cache; rotating the demo model takes 0.6 s of one core (2026-11)
_MAX_HADAMARD = 128  # a product with it costs as many multiplications for each weight


class ResidualRotation:
    """For whole checkpoint tensors, before they are cut over ranks: each norm before the linears that read through it."""

    def __init__(self, stream: ResidualStream, num_layers: int, hidden_size: int, num_experts: int = 0) -> None:
        def expand(weight: str, norm: str = "") -> Iterator[tuple[str, str]]:
            return ((name.weight, name.checkpoint) for name in WeightName(norm, weight).expanded(num_layers, num_experts))

        self._embedding = stream.embedding
        self._norm_of = {weight: norm for reader, before in stream.readers.items() for weight, norm in expand(reader, before)}
        self._norms = set(self._norm_of.values())
        self._writers = {weight for writer in stream.writers for weight, _ in expand(writer)}
        self._norm_weights: dict[str, Tensor] = {}
        self._rotate = HadamardRotation(hidden_size)

    def is_norm(self, weight: str) -> bool:
        return weight in self._norms

    def mixes_rows(self, weight: str) -> bool:
        """Whether ``apply`` needs all rows of the weight's tensor at once."""
        return weight in self._writers

    def apply(self, weight: str, values: Tensor) -> Tensor:
        """The whole checkpoint tensor ``values`` as the rotated model has it; fp32 where it is changed."""
        if weight in self._norms:
            # A copy: what lives as long as the model must not hold on to a mapped file.
            self._norm_weights[weight] = values.to(torch.float32, copy=True)
            return torch.ones_like(values)
        if weight in self._norm_of:
            return self._rotate(values, self._norm_weights[self._norm_of[weight]])
        if weight in self._writers:
            return self._rotate(values.t().contiguous()).t()  # of a bias, t() is itself
        return self._rotate(values) if weight == self._embedding else values

    def update(self, weight: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """See WeightTransform. What a reader's update reads is rotated as its weight is, what a writer's gives likewise, and the rows of
        the embedding's table: ``b @ a`` of the rotated model is ``apply`` of the checkpoint's, without making it."""
        if weight in self._norm_of or weight == self._embedding:
            return self.apply(weight, a), b
        return (a, self.apply(weight, b)) if weight in self._writers else (a, b)


class HadamardRotation:
    """x [..., H] -> x Q for a fixed orthogonal Q [H, H] without zeros: random signs, Hadamard blocks, then a mixture of the blocks.

    H = m * b with b a power of two: b + m multiplications for each value of x instead of H.
    """

    def __init__(self, size: int) -> None:
        block = math.gcd(size, _MAX_HADAMARD)
        num_blocks = size // block
        generator = torch.Generator().manual_seed(_SEED)
        self._signs = torch.randint(0, 2, (size,), generator=generator).float() * 2 - 1
        self._hadamard = hadamard(block)
        gaussian = torch.randn(num_blocks, num_blocks, dtype=torch.float64, generator=generator)
        self._mixture = torch.linalg.qr(gaussian)[0].float()

    def __call__(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """``x * scale`` rotated: x [..., H] of any float dtype, scale [H] -> fp32."""
        block, num_blocks = len(self._hadamard), len(self._mixture)
        factors = self._signs if scale is None else self._signs * scale
        out = torch.empty(x.shape)
        rows = out.view(-1, num_blocks, block)
        pieces = torch.split(x.reshape(-1, num_blocks * block), _ROWS_A_PIECE)
        for piece, target in zip(pieces, torch.split(rows, _ROWS_A_PIECE), strict=True):
            blocks = (piece.float() * factors).reshape(-1, num_blocks, block) @ self._hadamard
            torch.bmm(self._mixture.t().expand(len(blocks), -1, -1), blocks, out=target)
        return out
