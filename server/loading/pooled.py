"""From files to a model that pools texts: its shape, its recipe, and every weight, each checked."""

from __future__ import annotations

from pathlib import Path

import torch

from headway.server.distributed.groups import TensorParallelGroup
from headway.server.errors import ModelSourceError
from headway.server.layers.quant.unquantized import UnquantizedLinear
from headway.server.loading.checkpoint import Checkpoint
from headway.server.loading.dummy import DummyCheckpoint
from headway.server.loading.experts import UnstackedCheckpoint, expert_names
from headway.server.loading.filling import Ignored, fill, places_of
from headway.server.loading.gguf import GgufCheckpoint
from headway.server.loading.loader import COMPUTED_ENDINGS, LoadFormat
from headway.server.loading.pooled_files import PooledFiles
from headway.server.loading.pooling_recipe import DenseModule
from headway.server.loading.renamed import RenamedCheckpoint
from headway.server.loading.safetensors import SafetensorsCheckpoint
from headway.server.models.base import BuildContext, DecoderConfig, LoadedModel, Projection


def load_pooled_model(
    source: PooledFiles,
    *,
    dtype: str,
    device: torch.device,
    load_format: LoadFormat,
    group: TensorParallelGroup,
    seed: int,
    max_model_len: int,
) -> LoadedModel:
    """As loader.load_model does, with the same errors."""
    family, config = source.family, source.config
    torch_dtype: torch.dtype = getattr(torch, dtype)
    method = UnquantizedLinear(torch_dtype, device)
    model = family.build(config, BuildContext(torch_dtype, device, method, group, max_model_len))
    names = family.names if source.gguf is None else family.gguf_names
    num_experts = config.num_experts if isinstance(config, DecoderConfig) else 0
    places = places_of(model, names, config.num_layers, num_experts)
    checkpoint: Checkpoint
    if load_format == "dummy":
        shapes = {name: place.shape for name, (place, *_) in places.items()}
        checkpoint = DummyCheckpoint(shapes, seed, torch_dtype, device)
    elif source.gguf is not None:
        assert isinstance(config, DecoderConfig)
        checkpoint = GgufCheckpoint(source.gguf, names, config)
    else:
        checkpoint = RenamedCheckpoint(SafetensorsCheckpoint(source.files.path), family.prefix)
    if isinstance(config, DecoderConfig) and config.mixture is not None:
        checkpoint = UnstackedCheckpoint(checkpoint, expert_names(config, names, family.stacks, places))
    fill(places, checkpoint, Ignored((*COMPUTED_ENDINGS, *family.ignored)), None, device)
    projections = _projections(source.recipe.dense, config.hidden_size, device)
    weight_bytes = sum(weight.num_bytes for _, weight in model.named_weights())
    return LoadedModel(model, config, weight_bytes, method.name, names, None, projections)


def _projections(modules: tuple[DenseModule, ...], hidden_size: int, device: torch.device) -> tuple[Projection, ...]:
    """Each takes what the one before it gives, the first one hidden states."""
    found, size = [], hidden_size
    for module in modules:
        projection = _projection(module, device)
        if projection.weight.shape[1] != size:
            raise _wrong_dense(module.directory, f"takes vectors of {projection.weight.shape[1]}, and those before it have {size}")
        found.append(projection)
        size = projection.weight.shape[0]
    return tuple(found)


def _projection(module: DenseModule, device: torch.device) -> Projection:
    tensors = {tensor.name: tensor for tensor in SafetensorsCheckpoint(module.directory).tensors()}
    weight, bias = tensors.get("linear.weight"), tensors.get("linear.bias")
    if weight is None or len(weight.shape) != 2:
        raise _wrong_dense(module.directory, "has no matrix linear.weight")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise _wrong_dense(module.directory, f"has a linear.bias of {list(bias.shape)} for a linear.weight of {list(weight.shape)}")
    return Projection(
        weight.read().to(device, torch.float32), None if bias is None else bias.read().to(device, torch.float32), module.has_tanh
    )


def _wrong_dense(directory: Path, why: str) -> ModelSourceError:
    return ModelSourceError(f"The Dense module in {directory} {why}; copy or download the model again.")
