"""Random weights in the shapes of a model, for measuring speed without its files."""

from __future__ import annotations

import hashlib
from functools import partial

import torch
from torch import Tensor

from headway.server.loading.checkpoint import CheckpointTensor


class DummyCheckpoint:
    """The same seed gives the same model, on any number of ranks: each tensor has a generator of its own, seeded by its name."""

    origin = "the dummy weights"

    def __init__(self, shapes: dict[str, tuple[int, ...]], seed: int, dtype: torch.dtype, device: torch.device) -> None:
        self._shapes = shapes
        self._seed = seed
        self._dtype = dtype
        self._device = device

    def tensors(self) -> list[CheckpointTensor]:
        return [CheckpointTensor(name, shape, partial(self._make, name, shape)) for name, shape in self._shapes.items()]

    def _make(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(shape, dtype=self._dtype, device=self._device)
        digest = hashlib.sha256(f"{self._seed} {name}".encode()).digest()
        generator = torch.Generator(self._device).manual_seed(int.from_bytes(digest[:7], "big"))
        bound = 0.02 * 3**0.5  # the standard deviation that models are initialised with
        return torch.empty(shape, dtype=self._dtype, device=self._device).uniform_(-bound, bound, generator=generator)
