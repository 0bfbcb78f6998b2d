"""From files to a model that is ready to run: config, layers, then every weight, each checked."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from headway.kernels.attention_library import AttentionLibrary
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.distributed.places import WHOLE, PipelineStage
from headway.server.errors import ModelSourceError
from headway.server.layers.quant.grouped import GroupedLinear
from headway.server.layers.quant.int8 import Int8Linear
from headway.server.layers.quant.kept import KeptLinear
from headway.server.layers.quant.kept_blocks import KeptBlocksLinear
from headway.server.layers.quant.method import LinearMethod
from headway.server.layers.quant.scheme import GGUF_GROUPS, WeightScheme, dequantized_name, rounded_scheme
from headway.server.layers.quant.unquantized import UnquantizedLinear
from headway.server.loading.bitsandbytes import BitsAndBytesCheckpoint
from headway.server.loading.checkpoint import Checkpoint, read_tensor
from headway.server.loading.config_json import NO_OVERRIDES, Overrides
from headway.server.loading.dummy import DummyCheckpoint
from headway.server.loading.experts import UnstackedCheckpoint, expert_names
from headway.server.loading.filling import Ignored, Place, fill, names_elsewhere, places_of
from headway.server.loading.gguf import GgufCheckpoint
from headway.server.loading.kv_scales import KV_SCALE_ENDINGS, set_kv_scales
from headway.server.loading.model_config import open_model
from headway.server.loading.quantized import QuantizedCheckpoint
from headway.server.loading.renamed import RenamedCheckpoint
from headway.server.loading.rotation import ResidualRotation
from headway.server.loading.rounded import RoundedCheckpoint
from headway.server.loading.safetensors import SafetensorsCheckpoint
from headway.server.loading.through_transformers import load_through_transformers
from headway.server.models.base import BuildContext, DecoderConfig, Family, LoadedModel, ReadPlain
from headway.server.models.names import EMBEDDING, HEAD, WeightName
from headway.server.models.quantized_linears import quantized_modules
from headway.server.models.transformers_config import OWN_CODE, ModelCode, TransformersConfig
from headway.server.source.files import ModelFiles

log = logging.getLogger(__name__)

_HEADS = ("lm_head.",)
# Endings of tensors that have no place in a weight: tables computed from the config, and scales.
COMPUTED_ENDINGS = (
    "rotary_emb.inv_freq",
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
    *KV_SCALE_ENDINGS,
)

LoadFormat = Literal["auto", "safetensors", "gguf", "dummy"]
Quantization = Literal["none", "int8", "int4", "gguf", "gguf_a16", "kept", "w4a8", "w8a8", "w4a16", "fp8"]


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
    overrides: Overrides = NO_OVERRIDES,
    has_whole_experts: bool = False,
    num_redundant_experts: int | None = None,
    stage: PipelineStage = WHOLE,
    code: ModelCode = OWN_CODE,
    attention: AttentionLibrary | None = None,
) -> LoadedModel:
    """Builds this rank's model, the layers of ``stage``, on ``device`` and fills it.

    ``dtype`` is that of activations and of weights kept unquantised. ``max_model_len`` (default: the model's own) is the
    longest position that will be asked for. ``overrides`` are laid over config.json, ``code`` is whose runs. ``has_whole_experts``,
    ``num_redundant_experts`` and ``attention``: see BuildContext. Raises ModelSourceError, one sentence, when a tensor is missing,
    unexpected or wrongly shaped, or when the ranks don't divide the model.
    """
    family, config, file = open_model(files, overrides, code)
    torch_dtype: torch.dtype = getattr(torch, dtype)
    rounded = rounded_scheme(quantization, config.hidden_size)
    method = _method(quantization, torch_dtype, device, rounded or config.scheme)
    length = max_model_len or config.max_model_len
    if isinstance(config, TransformersConfig):
        context = BuildContext(
            torch_dtype, device, method, group, length, has_whole_experts, stage, num_redundant_experts, attention=attention
        )
        return load_through_transformers(config, context, is_dummy=load_format == "dummy", seed=seed, rounded=rounded)
    assert family is not None, "only what runs through transformers has none"
    rotation = _rotation(family, config) if quantization == "int8" else None
    # A rotated head takes in the last norm and the embedding does not, and stages share no memory: two weights made of the one tensor.
    unties = config.tie_word_embeddings and (rotation is not None or stage.size > 1)
    built = replace(config, tie_word_embeddings=False) if unties else config
    context = BuildContext(torch_dtype, device, method, group, length, has_whole_experts, stage, num_redundant_experts, attention)
    model = family.build(built, context)
    names = family.gguf_names if file is not None else family.names
    places = places_of(model, _tied_twice(names) if unties else names, config.num_layers, config.num_experts)
    checkpoint: Checkpoint
    read_plain: ReadPlain | None = None
    if load_format == "dummy":
        checkpoint = _dummy(config, places, context, seed)
    elif file is not None:
        checkpoint = GgufCheckpoint(file, names, config)
    else:
        assert files.directory is not None
        open_plain = partial(_open_safetensors, files.directory, family.prefix)
        plain, read_plain = open_plain(), partial(read_tensor, open_plain)
        set_kv_scales(model, plain)
        checkpoint = _quantized(plain, family, config, places)
    if config.mixture is not None:
        checkpoint = UnstackedCheckpoint(checkpoint, expert_names(config, names, family.stacks, places))
    if rounded is not None:
        checkpoint = RoundedCheckpoint(checkpoint, rounded, places)
    elsewhere = names_elsewhere(model, names, stage.layers(config.num_layers), config.num_layers)
    if config.num_draft_layers:
        log.info("Layers for multi-token prediction are not used: %d of the checkpoint's are left out", config.num_draft_layers)
    ignored = Ignored(
        (*_ignored_endings(config), *family.ignored),
        elsewhere,
        _draft_layers(config, f"{family.prefix}layers." if file is None else "blk."),
    )
    fill(places, checkpoint, ignored, rotation, device, unpacks=config.scheme is not None or rounded is not None)
    weight_bytes = sum(weight.num_bytes for _, weight in model.named_weights())
    name = dequantized_name(method.name, config.scheme) if quantization == "none" else method.name
    return LoadedModel(model, config, weight_bytes, name, family.names, rotation, stage=stage, read_plain=read_plain)


def _dummy(config: DecoderConfig, places: dict[str, list[Place]], context: BuildContext, seed: int) -> Checkpoint:
    if config.scheme is not None:
        raise ModelSourceError("--load-format dummy makes no quantised weights, as this model has: use the files of an unquantised one.")
    return DummyCheckpoint({name: place.shape for name, (place, *_) in places.items()}, seed, context.dtype, context.device)


def _quantized(plain: Checkpoint, family: Family, config: DecoderConfig, places: dict[str, list[Place]]) -> Checkpoint:
    """``plain`` as the format of its files, if it is in one, has to be read."""
    if config.scheme is None or config.scheme.layout == "mxfp4":  # whose stacks hold blocks
        return plain
    if config.scheme.layout == "bitsandbytes":
        return BitsAndBytesCheckpoint(plain)
    return QuantizedCheckpoint(plain, config.scheme, quantized_modules(family, config), places)


def _open_safetensors(directory: Path, prefix: str) -> Checkpoint:
    return RenamedCheckpoint(SafetensorsCheckpoint(directory), prefix, _HEADS)


def _method(quantization: Quantization, dtype: torch.dtype, device: torch.device, scheme: WeightScheme | None) -> LinearMethod:
    if quantization == "int8":
        return Int8Linear(device)
    if quantization == "int4":
        return GroupedLinear(device, "int4 (8-bit activations)")
    if quantization == "gguf":
        return GroupedLinear(device, "GGUF blocks (8-bit activations)")
    if quantization == "gguf_a16":
        return KeptBlocksLinear(GGUF_GROUPS, dtype, device)
    if quantization == "none":
        return UnquantizedLinear(dtype, device)
    assert scheme is not None, "only those of a quantised checkpoint are kept so"
    return GroupedLinear(device, scheme.grouped_name) if quantization == "w4a8" else KeptLinear(scheme, dtype, device)


def _rotation(family: Family, config: DecoderConfig) -> ResidualRotation | None:
    if family.stream is None:
        return None
    return ResidualRotation(family.stream, config.num_layers, config.hidden_size, config.num_experts)


def _tied_twice(names: tuple[WeightName, ...]) -> tuple[WeightName, ...]:
    """The names of a tied checkpoint for a model whose head is a weight of its own: it is filled from the embedding's tensor."""
    tensor = next(name.checkpoint for name in names if name.weight == EMBEDDING)
    return tuple(replace(name, checkpoint=tensor, is_retied=True) if name.weight == HEAD else name for name in names)


def _draft_layers(config: DecoderConfig, prefix: str) -> tuple[str, ...]:
    """How names of tensors begin that only multi-token prediction needs, where those of a layer begin with ``prefix`` and its number."""
    first = config.num_layers
    return tuple(f"{prefix}{layer}." for layer in range(first, first + config.num_draft_layers))


def _ignored_endings(config: DecoderConfig) -> tuple[str, ...]:
    """With the copy of a tied embedding."""
    return (*COMPUTED_ENDINGS, "lm_head.weight") if config.tie_word_embeddings else COMPUTED_ENDINGS
