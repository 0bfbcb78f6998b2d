"""An EAGLE head from its files, beside the model whose parts it shares."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from headway.server.distributed.groups import TensorParallelGroup
from headway.server.errors import ModelSourceError
from headway.server.layers.quant.unquantized import UnquantizedLinear
from headway.server.loading.checkpoint import CheckpointTensor
from headway.server.loading.filling import Ignored, fill, places_of
from headway.server.loading.loader import COMPUTED_ENDINGS
from headway.server.loading.safetensors import SafetensorsCheckpoint
from headway.server.models.base import BuildContext, LoadedModel
from headway.server.models.decoder import DecoderModel
from headway.server.models.eagle import EagleHead
from headway.server.models.eagle_config import NAMES, EagleConfig
from headway.server.source.files import ModelFiles

_OFFSETS = "d2t"  # of each token that EAGLE-3's head can guess: how far its number is from the model's for the same
_UNUSED = (*COMPUTED_ENDINGS, _OFFSETS, "t2d", "embed_tokens.weight", "lm_head.weight")  # unless the head has a place for it
_EMBEDDING = "embed_tokens.weight"


def load_eagle_head(
    files: ModelFiles,
    config: EagleConfig,
    target: LoadedModel,
    *,
    dtype: str,
    device: torch.device,
    group: TensorParallelGroup,
    max_model_len: int,
    max_tokens: int,
) -> LoadedModel:
    """``max_tokens``: of a step of either.

    Raises ModelSourceError, one sentence, for a tensor that is missing, unexpected or wrongly shaped."""
    assert files.directory is not None, "heads are safetensors"
    assert isinstance(target.model, DecoderModel), "only such a model has what a head shares"
    checkpoint = _HeadCheckpoint(SafetensorsCheckpoint(files.directory))
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors()}
    config = _seen(config, tensors, target.model)
    torch_dtype: torch.dtype = getattr(torch, dtype)
    method = UnquantizedLinear(torch_dtype, device)
    head = EagleHead(config, BuildContext(torch_dtype, device, method, group, max_model_len), target.model, max_tokens)
    fill(places_of(head, NAMES, 1), checkpoint, Ignored(_UNUSED), None, device)
    if (target_ids := _target_ids(config, tensors.get(_OFFSETS), checkpoint.origin)) is not None:
        head.set_target_ids(target_ids.to(device))
    weight_bytes = sum(weight.num_bytes for _, weight in head.named_weights())
    shape = replace(config.layer, vocab_size=config.draft_vocab_size)
    return LoadedModel(head, shape, weight_bytes, method.name, NAMES, None)


class _HeadCheckpoint:
    """Under one name for the layer, which EAGLE-3's authors call "midlayer" and others "layers.0"."""

    def __init__(self, checkpoint: SafetensorsCheckpoint) -> None:
        self.origin = checkpoint.origin
        self._checkpoint = checkpoint

    def tensors(self) -> list[CheckpointTensor]:
        return [replace(tensor, name=_renamed(tensor.name)) for tensor in self._checkpoint.tensors()]


def _renamed(name: str) -> str:
    name = name.removeprefix("model.")
    return name.replace("midlayer.", "layers.0.", 1) if name.startswith("midlayer.") else name


def _seen(config: EagleConfig, tensors: dict[str, CheckpointTensor], target: DecoderModel) -> EagleConfig:
    """With what configs don't say, or not the truth of. An embedding that is the model's is not kept twice."""
    attention, embedding = "layers.0.self_attn.", tensors.get(_EMBEDDING)
    assert target.embed_tokens is not None, "a model of one stage"
    layer = replace(config.layer, qkv_bias=f"{attention}q_proj.bias" in tensors, o_bias=f"{attention}o_proj.bias" in tensors)
    return replace(
        config,
        layer=layer,
        has_fc_bias="fc.bias" in tensors,
        has_embedding=config.method == "eagle3" and embedding is not None and not target.embed_tokens.holds(embedding.read()),
        has_head="lm_head.weight" in tensors,
    )


def _target_ids(config: EagleConfig, offsets: CheckpointTensor | None, origin: str) -> Tensor | None:
    """None where both models' numbers are the same."""
    count, vocab_size = config.draft_vocab_size, config.layer.vocab_size
    if config.method == "eagle":
        return None
    if not config.has_head and count != vocab_size:
        raise ModelSourceError(f"The checkpoint {origin} lacks the tensor lm_head.weight of its {count} tokens; copy or download it again.")
    if offsets is None:
        if count == vocab_size:
            return None
        raise ModelSourceError(
            f"The checkpoint {origin} lacks the tensor {_OFFSETS}, which says what its {count} tokens of {vocab_size} are; copy or "
            "download it again."
        )
    values = offsets.read()
    if offsets.shape != (count,) or values.is_floating_point():
        raise ModelSourceError(
            f"The checkpoint's tensor {_OFFSETS} must be {count} whole numbers, one a token that the head can guess, and it is "
            f"{list(offsets.shape)} of {values.dtype}; check that config and weights belong together."
        )
    target_ids = torch.arange(count) + values.to(torch.int64)
    if int(target_ids.min()) < 0 or int(target_ids.max()) >= vocab_size:
        raise ModelSourceError(
            f"The checkpoint's tensor {_OFFSETS} names tokens that the model's vocabulary of {vocab_size} has not; check that config and "
            "weights belong together."
        )
    return target_ids
