"""The weights of a model filled from a checkpoint: every tensor has its place, and every place gets its tensor."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from headway.server.errors import ModelSourceError
from headway.server.layers.quant.grouped import GroupedWeight
from headway.server.layers.quant.kept import QuantizedWeight
from headway.server.layers.quant.quantized_values import QuantizedValues
from headway.server.layers.weight import Weight
from headway.server.loading.checkpoint import Blocks, Checkpoint, CheckpointTensor
from headway.server.loading.rotation import ResidualRotation
from headway.server.loading.staging import copy_for
from headway.server.machine import trim_heap
from headway.server.models.base import Model
from headway.server.models.names import WeightName

Prepared = Sequence[Tensor | Blocks]  # one a place of a tensor

_MAX_READERS = 8  # each holds a dequantised, perhaps rotated tensor, or a span of it
_SHOWN = 3  # names listed in a message
# After so many bytes what is freed goes back to the system: packing leaves holes between what it keeps, and with experts of 3 MB each
# they grew to 0.36 of the weights, now to a constant (2026-11).
_TRIMMED_BYTES = 32 * 2**20
_BYTES_A_WEIGHT = 4
# Of a tensor that is read in pieces. On a CPU 4 MiB of fp32, several of which are held beside the weights: a small model's embedding as a
# whole was half as large again as all that is kept of it. On a GPU nothing else is held here, and few large pieces are copied faster.
_ELEMENTS_A_SPAN, _ELEMENTS_FOR_A_GPU = 1 << 20, 1 << 24


@dataclass(frozen=True, slots=True)
class Place:
    """Where a checkpoint tensor goes: to parts of the weight ``name`` of the model, changed as its name says."""

    name: str
    weight: Weight
    source: WeightName

    @property
    def shape(self) -> tuple[int, ...]:
        """That the checkpoint's tensor must have."""
        shapes = [self.weight.parts[part].shape for part in self.source.all_parts]
        shape = (sum(part[0] for part in shapes), *shapes[0][1:])
        return shape[::-1] if self.source.is_transposed else shape

    def rows(self) -> Iterator[tuple[str, int, int]]:
        """(part, first row, number of rows) of each part, once the tensor is not transposed any more."""
        first = 0
        for part in self.source.all_parts:
            count = self.weight.parts[part].shape[0]
            yield part, first, count
            first += count

    def check(self, tensor: CheckpointTensor) -> None:
        """Raises ModelSourceError when the tensor has not the shape of its place."""
        if tensor.shape != self.shape:
            raise ModelSourceError(
                f"The checkpoint's tensor {tensor.name} has shape {list(tensor.shape)}, but the model's config asks for "
                f"{list(self.shape)}; check that config and weights belong together."
            )


@dataclass(frozen=True, slots=True)
class Span:
    """Rows ``[first, end)`` of a checkpoint's tensor: what is read at once, and goes to ``places``."""

    tensor: CheckpointTensor  # of these rows alone
    places: Sequence[Place]
    first: int = 0
    end: int = sys.maxsize

    def put(self, prepared: Prepared, copy: Callable[[Tensor, Tensor], object]) -> None:
        """``prepared``: for each place these rows, columns last."""
        for place, values in zip(self.places, prepared, strict=True):
            for part, start, count in place.rows():
                begin, stop = max(start, self.first), min(start + count, self.end)
                if begin < stop:
                    _put(place.weight, part, values, begin - self.first, stop - begin, begin - start, copy)


@dataclass(frozen=True, slots=True)
class Ignored:
    """Tensors of a checkpoint that need no place."""

    endings: tuple[str, ...]
    elsewhere: frozenset[str] = frozenset()  # those of other stages
    beginnings: tuple[str, ...] = ()

    def __contains__(self, name: str) -> bool:
        return name in self.elsewhere or name.endswith(self.endings) or name.startswith(self.beginnings)


def places_of(model: Model, names: tuple[WeightName, ...], num_layers: int, num_experts: int = 0) -> dict[str, list[Place]]:
    """Checkpoint tensor -> its places, for every weight that this model has."""
    weights = dict(model.named_weights())
    places: dict[str, list[Place]] = {}
    for pattern in names:
        for name in pattern.expanded(num_layers, num_experts):
            if name.weight in weights:
                places.setdefault(name.checkpoint, []).append(Place(name.weight, weights[name.weight], name))
    return places


def names_elsewhere(model: Model, names: tuple[WeightName, ...], own: range, num_layers: int) -> frozenset[str]:
    """Of a checkpoint's tensors those that stages other than this model, which has the layers ``own``, have the places for."""
    if len(own) == num_layers:
        return frozenset()
    weights = {name for name, _ in model.named_weights()}
    others = [i for i in range(num_layers) if i not in own]
    of_layers = {name.checkpoint.replace("{i}", str(i)) for name in names for i in others if "{i}" in name.weight}
    return frozenset(of_layers | {name.checkpoint for name in names if "{i}" not in name.weight and name.weight not in weights})


def fill(
    places: dict[str, list[Place]],
    checkpoint: Checkpoint,
    ignored: Ignored,
    rotation: ResidualRotation | None,
    device: torch.device,
    *,
    unpacks: bool = False,
) -> None:
    """``unpacks``: reading a tensor is work of torch's."""
    copy = copy_for(device)
    tensors = [tensor for tensor in checkpoint.tensors() if tensor.name in places or tensor.name not in ignored]
    _refuse("lacks", places.keys() - {tensor.name for tensor in tensors}, checkpoint, "which the model needs")
    _refuse("has", {tensor.name for tensor in tensors} - places.keys(), checkpoint, "which the model's config has no place for")

    for tensor in tensors:
        for place in places[tensor.name]:
            place.check(tensor)
    prepare = partial(_prepared, rotation=rotation)
    most = _ELEMENTS_A_SPAN if device.type == "cpu" else _ELEMENTS_FOR_A_GPU
    norms: list[Span] = []
    others: list[Span] = []
    for tensor in tensors:
        own = places[tensor.name]
        is_norm = rotation is not None and rotation.is_norm(own[0].name)
        (norms if is_norm else others).extend(_spans(tensor, own, rotation, most))
    with _one_thread_each() if unpacks or rotation is not None else contextlib.nullcontext():
        num_bytes = 0
        for group in (norms, others):  # linears take their norms in
            for span, prepared in _read_ahead(group, prepare):
                span.put(prepared, copy)
                span.tensor.done()
                num_bytes += math.prod(span.tensor.shape) * _BYTES_A_WEIGHT
                del prepared
                if num_bytes > _TRIMMED_BYTES:
                    num_bytes = 0
                    trim_heap()


def _spans(tensor: CheckpointTensor, places: Sequence[Place], rotation: ResidualRotation | None, most: int) -> Iterator[Span]:
    """A tensor of more than ``most`` elements in pieces, where a row of it can be had and changed without the others."""
    needs_all = any(place.source.is_transposed or (rotation is not None and rotation.mixes_rows(place.name)) for place in places)
    num_rows = tensor.shape[0]
    step = max(most // max(math.prod(tensor.shape[1:]) * len(places), 1), 1)  # each place gets a tensor of its own
    if tensor.span is None or needs_all or len(tensor.shape) < 2 or step >= num_rows:
        yield Span(tensor, places)
        return
    for first in range(0, num_rows, step):
        count = min(step, num_rows - first)
        yield Span(tensor.span(first, count), places, first, first + count)


def _put(
    weight: Weight, part: str, values: Tensor | Blocks, first: int, count: int, row: int, copy: Callable[[Tensor, Tensor], object]
) -> None:
    """Rows ``[first, first + count)`` of ``values`` as those of ``part`` from ``row`` on."""
    if isinstance(values, Tensor):
        weight.load(part, values.narrow(0, first, count), copy, row)
    elif isinstance(weight, GroupedWeight):
        weight.load_blocks(part, values.rows(first, count), row)
    else:
        assert isinstance(weight, QuantizedWeight), "blocks are read for those two only"
        assert isinstance(values, QuantizedValues), "a GGUF's are for groups"
        weight.load_blocks(part, values.rows(first, count))


def _prepared(span: Span, rotation: ResidualRotation | None) -> Prepared:
    """What goes to each place of the tensor."""
    tensor = span.tensor
    is_kept = all(isinstance(place.weight, GroupedWeight | QuantizedWeight) and not place.source.is_retied for place in span.places)
    if tensor.read_blocks is not None and is_kept:
        return [tensor.read_blocks()] * len(span.places)
    values = tensor.read()
    return [_changed(values, place, rotation) for place in span.places]


def _changed(values: Tensor, place: Place, rotation: ResidualRotation | None) -> Tensor:
    if place.source.is_transposed:
        values = values.t()
    if place.source.plus:
        values = values.float() + place.source.plus
    return values if rotation is None else rotation.apply(place.name, values)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Torch starts no threads of its own, for this thread and for those that begin inside: rotating is many small products, after each of
    which they would wait for one another. On a machine that others keep busy, 8 bits took the demo model 20 s so (2026-11)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _read_ahead(spans: list[Span], prepare: Callable[[Span], Prepared]) -> Iterator[tuple[Span, Prepared]]:
    """Reads (for a GGUF: dequantises, in numpy) and prepares on other threads, a few spans ahead; copying and packing stay on this one.

    Torch's own threads are started by whoever calls it: where ``prepare`` computes, there must be one each.
    """
    num_readers = min(os.cpu_count() or 1, _MAX_READERS)
    with ThreadPoolExecutor(num_readers, thread_name_prefix="weights") as pool:
        reads: deque[tuple[Span, Future[Prepared]]] = deque()
        for span in spans:
            reads.append((span, pool.submit(prepare, span)))
            if len(reads) > num_readers:
                done, future = reads.popleft()
                yield done, future.result()
        while reads:
            done, future = reads.popleft()
            yield done, future.result()


def _refuse(verb: str, names: set[str], checkpoint: Checkpoint, why: str) -> None:
    if not names:
        return
    shown = ", ".join(sorted(names)[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    noun = "tensor" if len(names) == 1 else "tensors"
    raise ModelSourceError(
        f"The checkpoint {checkpoint.origin} {verb} the {noun} {shown}{more}, {why}; check that config and weights belong together."
    )
