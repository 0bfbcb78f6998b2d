"""From files to a model that `transformers` runs: its modules, then every weight, each checked."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from headway.server.layers.quant.scheme import WeightScheme
from headway.server.loading.checkpoint import Checkpoint, read_tensor
from headway.server.loading.dummy import DummyCheckpoint
from headway.server.loading.experts import UnstackedCheckpoint, expert_names
from headway.server.loading.filling import Ignored, fill, places_of
from headway.server.loading.kv_scales import KV_SCALE_ENDINGS
from headway.server.loading.rounded import RoundedCheckpoint
from headway.server.loading.safetensors import SafetensorsCheckpoint
from headway.server.loading.transformers_names import TransformersNames
from headway.server.models.base import BuildContext, LoadedModel
from headway.server.models.transformers_backend import TransformersModel
from headway.server.models.transformers_config import TransformersConfig

_COMPUTED_ENDINGS = ("rotary_emb.inv_freq", *KV_SCALE_ENDINGS)


def load_through_transformers(
    config: TransformersConfig, context: BuildContext, *, is_dummy: bool, seed: int, rounded: WeightScheme | None = None
) -> LoadedModel:
    """As loader.load_model does, with the same errors. ``rounded``: what weights are rounded to as they are read."""
    model = TransformersModel(config, context)
    names, stacks = tuple(model.names), tuple(model.stacks)
    places = places_of(model, names, config.num_layers, config.num_experts)
    shapes = {name: place.shape for name, (place, *_) in places.items()}
    checkpoint = DummyCheckpoint(shapes, seed, context.dtype, context.device) if is_dummy else _open(config, model, shapes)
    if stacks:
        checkpoint = UnstackedCheckpoint(checkpoint, expert_names(config, names, stacks, places))
    tied = ("lm_head.weight",) if "lm_head.weight" not in places else ()
    if rounded is not None:
        checkpoint = RoundedCheckpoint(checkpoint, rounded, places)
    fill(places, checkpoint, Ignored((*_COMPUTED_ENDINGS, *tied)), None, context.device, unpacks=rounded is not None)
    weight_bytes = sum(weight.num_bytes for _, weight in model.named_weights())
    read_plain = None if is_dummy else partial(read_tensor, partial(_open, config, model, shapes))
    return LoadedModel(model, config, weight_bytes, context.method.name, names, None, read_plain=read_plain)


def _open(config: TransformersConfig, model: TransformersModel, shapes: Mapping[str, tuple[int, ...]]) -> Checkpoint:
    own = {stack.checkpoint: stack for stack in model.stacks}
    return TransformersNames(SafetensorsCheckpoint(config.directory), model.causal, own, shapes)
