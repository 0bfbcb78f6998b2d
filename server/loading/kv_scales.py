"""The scales that a checkpoint brings along for a KV cache in fp8: a number for the keys and one for the values of each layer."""

from __future__ import annotations

import math
import re

from headway.server.errors import ModelSourceError
from headway.server.layers.attention import Attention
from headway.server.loading.checkpoint import Checkpoint, CheckpointTensor
from headway.server.models.base import Model

# Of llm-compressor, and of ModelOpt, which has them beside the projections.
_NAME = re.compile(r"model\.layers\.(\d+)\.self_attn\.(?:k_proj\.(?=k)|v_proj\.(?=v))?([kv])_scale")
# Endings of their names, and of scales of numbers that are not rounded here.
KV_SCALE_ENDINGS = (".self_attn.k_scale", ".self_attn.v_scale", ".k_proj.k_scale", ".v_proj.v_scale", ".q_scale", ".prob_scale")


def set_kv_scales(model: Model, checkpoint: Checkpoint) -> None:
    """Raises ModelSourceError where one is no number above 0. Layers without keep 1."""
    found: dict[str, dict[str, float]] = {}
    for tensor in checkpoint.tensors():
        if match := _NAME.fullmatch(tensor.name):
            found.setdefault(f"layers.{match[1]}.attention", {})[match[2]] = _number(tensor, checkpoint)
    for name, layer in model.named_layers():
        if isinstance(layer, Attention) and name in found:
            layer.set_kv_scales(**found[name])


def _number(tensor: CheckpointTensor, checkpoint: Checkpoint) -> float:
    # In fp32, as kernels take it: what is 0 there, or infinite, would make NaN of keys.
    value = float(tensor.read().reshape(-1)[0].float()) if math.prod(tensor.shape) == 1 else math.nan
    if not 0 < value < math.inf:
        raise ModelSourceError(
            f"The checkpoint {checkpoint.origin} has the scale {tensor.name} of the KV cache, which is not one number above 0; "
            "copy or download it again."
        )
    return value
