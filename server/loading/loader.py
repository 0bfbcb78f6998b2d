"""From files to a model that is ready to run: config, layers, then every weight, each checked."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from headway.server.distributed.groups import TensorParallelGroup
from headway.server.errors import ModelSourceError
from headway.server.layers.quant.int8 import Int8Linear
from headway.server.layers.quant.method import LinearMethod
from headway.server.layers.quant.unquantized import UnquantizedLinear
from headway.server.layers.weight import Weight
from headway.server.loading.checkpoint import Checkpoint, CheckpointTensor
from headway.server.loading.dummy import DummyCheckpoint
from headway.server.loading.gguf import GgufCheckpoint, GgufFile
from headway.server.loading.gguf_config import read_gguf_config
from headway.server.loading.rotation import ResidualRotation
from headway.server.loading.safetensors import SafetensorsCheckpoint
from headway.server.models.base import BuildContext, DecoderConfig, Family, LoadedModel, Model
from headway.server.models.names import WeightName
from headway.server.models.raw_config import RawConfig
from headway.server.models.registry import family_of
from headway.server.source.files import ModelFiles

LoadFormat = Literal["auto", "safetensors", "gguf", "dummy"]
Quantization = Literal["none", "int8"]

_MAX_READERS = 8  # each holds a dequantised tensor
_SHOWN = 3  # names listed in a message


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a checkpoint tensor goes: a part of the weight ``name`` of the model."""

    name: str
    weight: Weight
    part: str


def read_config(files: ModelFiles) -> DecoderConfig:
    """The model's own shape, read without its weights. Raises ModelSourceError for what is not supported."""
    return _open(files)[1]


def load_model(
    files: ModelFiles,
    *,
    dtype: str,
    device: torch.device,
    quantization: Quantization,
    load_format: LoadFormat,
    group: TensorParallelGroup,
    seed: int,
    max_model_len: int | None = None,
) -> LoadedModel:
    """Builds this rank's model on ``device`` and fills it.

    ``dtype`` is that of activations and of weights kept unquantised. ``max_model_len`` (default: the model's own) is the
    longest position that will be asked for. Raises ModelSourceError, one sentence, when a tensor is missing, unexpected or
    wrongly shaped, or when the ranks don't divide the model.
    """
    family, config, file = _open(files)
    torch_dtype: torch.dtype = getattr(torch, dtype)
    method: LinearMethod = Int8Linear(device) if quantization == "int8" else UnquantizedLinear(torch_dtype, device)
    rotation = _rotation(family, config) if quantization == "int8" else None
    # A rotated head takes in the last norm and the embedding does not: two weights made of the one tensor.
    built = replace(config, tie_word_embeddings=False) if rotation is not None else config
    model = family.build(built, BuildContext(torch_dtype, device, method, group, max_model_len or config.max_model_len))
    names = family.gguf_names if file is not None else family.names
    places = _places(model, _tied_twice(names, family) if config.tie_word_embeddings and rotation is not None else names, config)
    checkpoint: Checkpoint
    if load_format == "dummy":
        shapes = {name: place.weight.parts[place.part].shape for name, (place, *_) in places.items()}
        checkpoint = DummyCheckpoint(shapes, seed, torch_dtype, device)
    elif file is not None:
        checkpoint = GgufCheckpoint(file, names, config)
    else:
        assert files.directory is not None
        checkpoint = SafetensorsCheckpoint(files.directory)
    _fill(places, checkpoint, _ignored_names(config), rotation)
    weight_bytes = sum(weight.num_bytes for _, weight in model.named_weights())
    return LoadedModel(model, config, weight_bytes, method.name, family.names, rotation)


def _open(files: ModelFiles) -> tuple[Family, DecoderConfig, GgufFile | None]:
    if files.kind == "gguf":
        file = GgufFile(files.path)
        return *read_gguf_config(file), file
    path = files.path / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelSourceError(f"{path} is missing: a model directory needs it; copy or download the model again.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelSourceError(f"{path} cannot be read as JSON ({error}); copy or download it again.") from error
    architectures = values.get("architectures") if isinstance(values, dict) else None
    family = family_of([str(name) for name in architectures or []], str(files.path))
    return family, family.read_config(RawConfig(values, f"config.json ({path})")), None


def _rotation(family: Family, config: DecoderConfig) -> ResidualRotation | None:
    return ResidualRotation(family.stream, config.num_layers, config.hidden_size) if family.stream is not None else None


def _tied_twice(names: tuple[WeightName, ...], family: Family) -> tuple[WeightName, ...]:
    """The names of a tied checkpoint for a model whose head is a weight of its own: it is filled from the embedding's tensor."""
    assert family.stream is not None
    stream = family.stream
    embedding = next(name for name in names if name.weight == stream.embedding)
    return tuple(replace(name, checkpoint=embedding.checkpoint) if name.weight == stream.head else name for name in names)


def _places(model: Model, names: tuple[WeightName, ...], config: DecoderConfig) -> dict[str, list[_Place]]:
    """Checkpoint tensor -> its places, for every weight that this model has."""
    weights = dict(model.named_weights())
    places: dict[str, list[_Place]] = {}
    for name in names:
        for i in range(config.num_layers) if "{i}" in name.weight else (0,):
            ours = name.weight.replace("{i}", str(i))
            if ours in weights:
                places.setdefault(name.checkpoint.replace("{i}", str(i)), []).append(_Place(ours, weights[ours], name.part))
    return places


def _ignored_names(config: DecoderConfig) -> tuple[str, ...]:
    """Endings of tensors that say nothing new: tables computed from the config, and the copy of a tied embedding."""
    computed = ("rotary_emb.inv_freq", "rope_freqs.weight")
    return (*computed, "lm_head.weight") if config.tie_word_embeddings else computed


def _fill(places: dict[str, list[_Place]], checkpoint: Checkpoint, ignored: tuple[str, ...], rotation: ResidualRotation | None) -> None:
    tensors = [tensor for tensor in checkpoint.tensors() if tensor.name in places or not tensor.name.endswith(ignored)]
    _refuse("lacks", places.keys() - {tensor.name for tensor in tensors}, checkpoint, "which the model needs")
    _refuse("has", {tensor.name for tensor in tensors} - places.keys(), checkpoint, "which the model's config has no place for")

    for tensor in tensors:
        for place in places[tensor.name]:
            place.weight.check(place.part, tensor.name, tensor.shape)
    if rotation is not None:
        tensors.sort(key=lambda tensor: not rotation.is_norm(places[tensor.name][0].name))  # linears take them in
    for tensor, values in _read_ahead(tensors):
        for place in places[tensor.name]:
            place.weight.load(place.part, values if rotation is None else rotation.apply(place.name, values))


def _read_ahead(tensors: list[CheckpointTensor]) -> Iterator[tuple[CheckpointTensor, Tensor]]:
    """Reads (for a GGUF: dequantises, in numpy) on other threads, a few tensors ahead; copying and packing stay on this one.

    Torch's own threads are started by whoever calls it, so a pool that called torch would have cores times readers of them.
    """
    num_readers = min(os.cpu_count() or 1, _MAX_READERS)
    with ThreadPoolExecutor(num_readers, thread_name_prefix="weights") as pool:
        reads: deque[tuple[CheckpointTensor, Future[Tensor]]] = deque()
        for tensor in tensors:
            reads.append((tensor, pool.submit(tensor.read)))
            if len(reads) > num_readers:
                done, future = reads.popleft()
                yield done, future.result()
        for done, future in reads:
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
