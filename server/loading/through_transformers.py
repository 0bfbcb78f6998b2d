"""From files to a model that `transformers` runs: its modules, then every weight, each checked."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Any

from headway.server.layers.quant.scheme import WeightScheme
from headway.server.loading.checkpoint import Checkpoint, CheckpointTensor, read_tensor
from headway.server.loading.dummy import DummyCheckpoint
from headway.server.loading.filling import Ignored, fill, places_of
from headway.server.loading.kv_scales import KV_SCALE_ENDINGS
from headway.server.loading.rounded import RoundedCheckpoint
from headway.server.loading.safetensors import SafetensorsCheckpoint
from headway.server.models.base import BuildContext, LoadedModel
from headway.server.models.transformers_backend import TransformersModel
from headway.server.models.transformers_code import renamings
from headway.server.models.transformers_config import TransformersConfig

_COMPUTED_ENDINGS = ("rotary_emb.inv_freq", *KV_SCALE_ENDINGS)


def load_through_transformers(
    config: TransformersConfig, context: BuildContext, *, is_dummy: bool, seed: int, rounded: WeightScheme | None = None
) -> LoadedModel:
    """As loader.load_model does, with the same errors. ``rounded``: what weights are rounded to as they are read."""
    model = TransformersModel(config, context)
    names = tuple(model.names)
    places = places_of(model, names, config.num_layers)
    checkpoint: Checkpoint
    if is_dummy:
        shapes = {name: place.shape for name, (place, *_) in places.items()}
        checkpoint = DummyCheckpoint(shapes, seed, context.dtype, context.device)
    else:
        checkpoint = _open(config, model)
    tied = ("lm_head.weight",) if "lm_head.weight" not in places else ()
    if rounded is not None:
        checkpoint = RoundedCheckpoint(checkpoint, rounded, places)
    fill(places, checkpoint, Ignored((*_COMPUTED_ENDINGS, *tied)), None, context.device, unpacks=rounded is not None)
    weight_bytes = sum(weight.num_bytes for _, weight in model.named_weights())
    read_plain = None if is_dummy else partial(read_tensor, partial(_open, config, model))
    return LoadedModel(model, config, weight_bytes, context.method.name, names, None, read_plain=read_plain)


def _open(config: TransformersConfig, model: TransformersModel) -> Checkpoint:
    return _AsTransformersNames(SafetensorsCheckpoint(config.directory), model.causal)


class _AsTransformersNames:
    """Without the tensors that the class says it has no use for, under the names that its modules have today."""

    def __init__(self, checkpoint: Checkpoint, causal: Any) -> None:
        self.origin = checkpoint.origin
        self._checkpoint = checkpoint
        self._renamings = renamings(causal)
        self._unused = [re.compile(pattern) for pattern in causal._keys_to_ignore_on_load_unexpected or ()]
        self._prefix = f"{causal.base_model_prefix}."
        self._beside = tuple(f"{name}." for name, _ in causal.named_children() if f"{name}." != self._prefix)

    def tensors(self) -> list[CheckpointTensor]:
        found = [replace(_with_a_dimension(tensor), name=self._renamed(tensor.name)) for tensor in self._checkpoint.tensors()]
        if not any(tensor.name.startswith(self._prefix) for tensor in found):  # of the body alone
            found = [replace(t, name=t.name if t.name.startswith(self._beside) else self._prefix + t.name) for t in found]
        return [tensor for tensor in found if not any(pattern.search(tensor.name) for pattern in self._unused)]

    def _renamed(self, name: str) -> str:
        for renaming in self._renamings:
            name, _ = renaming.rename_source_key(name)
        return name


def _with_a_dimension(tensor: CheckpointTensor) -> CheckpointTensor:
    """Weights have one at least; a number without any is one of a single element."""
    return tensor if tensor.shape else replace(tensor, shape=(1,), read=lambda: tensor.read().view(1))
