"""Weights: tensors of this rank that checkpoint tensors fill, and the small base class of layers that own them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """One checkpoint tensor's place in a weight: ``[start, start + length)`` of its ``dim`` goes to ``offset`` of the weight's.

    ``shape`` is that of the whole checkpoint tensor; where dimensions are not ``dim``, the weight has them in full.
    """

    shape: tuple[int, ...]
    dim: int
    start: int
    length: int
    offset: int = 0


def whole(shape: tuple[int, ...]) -> dict[str, Part]:
    """The one part of a weight that every rank holds in full."""
    return {"": Part(shape, 0, 0, shape[0])}


class Rows(Protocol):
    """A tensor, or values that are cut as one."""

    def narrow(self, dim: int, start: int, length: int, /) -> Self: ...


RowsT = TypeVar("RowsT", bound=Rows)


def share(place: Part, values: RowsT, first: int, count: int) -> tuple[int, RowsT]:
    """(row of the weight where it belongs, what this rank has of it) of the rows ``[first, first + count)`` of a checkpoint's tensor."""
    if place.dim != 0:
        return first, values.narrow(place.dim, place.start, place.length)
    begin = min(max(first, place.start), first + count)
    end = max(min(first + count, place.start + place.length), begin)
    row = place.offset + begin - place.start if end > begin else place.offset
    return row, values.narrow(0, begin - first, end - begin)


class Weight:
    """A tensor of this rank, allocated when its first part arrives and handed to ``finish`` when its last part has.

    ``finish`` gets the filled tensor and returns the bytes that are kept of it; the weight itself then forgets the tensor. So
    a quantising layer packs tensor by tensor and the peak stays near the final size.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        parts: dict[str, Part],
        finish: Callable[[Any], int],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.shape = shape
        self.parts = parts
        self.dtype = dtype
        self.num_bytes = 0  # kept, once complete
        self._device = device
        self._finish = finish
        self._tensor: Tensor | None = None
        self._missing = {name: part.shape[0] for name, part in parts.items()}  # rows of the checkpoint's tensors

    def load(self, part: str, tensor: Tensor, copy: Callable[[Tensor, Tensor], object] = Tensor.copy_, first: int = 0) -> None:
        """Copies this rank's share of a checkpoint tensor by ``copy(target, source)``: of all of it, or of its rows from ``first`` on."""
        place = self.parts[part]
        target = self._allocated()
        row, own = share(place, tensor, first, tensor.shape[0])
        rows = target.narrow(0, row, own.shape[0])
        copy(rows if place.dim == 0 else rows.narrow(place.dim, place.offset, place.length), own)
        if self._has_all(part, tensor.shape[0]):
            self._tensor = None
            self.num_bytes = self._finish(target)

    def _has_all(self, part: str, num_rows: int) -> bool:
        """Whether nothing is missing any more, with so many rows of the checkpoint's tensor."""
        self._missing[part] -= num_rows
        assert self._missing[part] >= 0, "each row comes once"
        return not any(self._missing.values())

    def _allocated(self) -> Tensor:
        if self._tensor is None:
            dim = next(iter(self.parts.values())).dim
            is_covered = sum(part.length for part in self.parts.values()) == self.shape[dim]
            make = torch.empty if is_covered else torch.zeros  # rows that pad a vocabulary stay zero
            self._tensor = make(self.shape, dtype=self.dtype, device=self._device)
        return self._tensor


class ManyTensors(ABC):
    """A packed weight of several tensors."""

    __slots__ = ()

    @abstractmethod
    def tensors(self) -> Iterator[Tensor]: ...


class Layer:
    """Base of everything that owns weights: plain Python, because nn.Module's call and attribute hooks cost 5 % of a CPU decode step.

    Weights and layers are found by attribute; a list of layers counts by index, a dictionary of them by its keys.
    """

    def named_weights(self) -> Iterator[tuple[str, Weight]]:
        for prefix, layer in self.named_layers():
            for name, value in vars(layer).items():
                if isinstance(value, Weight):
                    yield f"{prefix}.{name}" if prefix else name, value

    def tensors(self) -> Iterator[Tensor]:
        """All that this layer and those below it hold, in plain layouts: what a GPU has in its memory."""
        for _, layer in self.named_layers():
            for value in vars(layer).values():
                for item in value if isinstance(value, list) else (value,):
                    held = getattr(item, "data", None)  # a packed weight's own tensor; of a tensor, a view of the same memory
                    if isinstance(held, Tensor):
                        yield held
                    elif isinstance(item, ManyTensors):
                        yield from item.tensors()

    def named_layers(self, name: str = "") -> Iterator[tuple[str, Layer]]:
        """This layer as ``name``, then all layers below it, such as "layers.3.qkv"."""
        yield name, self
        prefix = f"{name}." if name else ""
        for attribute, value in vars(self).items():
            if isinstance(value, Layer):
                yield from value.named_layers(prefix + attribute)
            elif isinstance(value, list | dict):
                for i, item in value.items() if isinstance(value, dict) else enumerate(value):
                    if isinstance(item, Layer):
                        yield from item.named_layers(f"{prefix}{attribute}.{i}")
