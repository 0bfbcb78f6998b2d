"""Kinds of decoder layers beside the one of models/decoder.py."""

from __future__ import annotations

from torch import Tensor

from headway.kernels.plans import LoraPlan
from headway.server.layers.attention import AttentionStep
from headway.server.layers.forward import LayerKV
from headway.server.models.base import BlockKind, BuildContext, DecoderConfig
from headway.server.models.decoder import DecoderBranches, DecoderLayer
from headway.server.models.decoder_norms import normed, stream_norm
from headway.server.models.latent_decoder import LatentLayer


class SandwichLayer(DecoderBranches):
    """A norm behind each branch, and in the kind of that name one before it too."""

    def __init__(self, config: DecoderConfig, index: int, context: BuildContext) -> None:
        super().__init__(config, index, context)
        has_both = config.block == "sandwich"
        self.input_norm = stream_norm(config, context) if has_both else None
        self.attention_out_norm = stream_norm(config, context)
        self.feed_forward_norm = stream_norm(config, context) if has_both else None
        self.feed_forward_out_norm = stream_norm(config, context)

    def __call__(
        self, hidden: Tensor, residual: Tensor | None, kv: LayerKV, step: AttentionStep, lora: LoraPlan | None
    ) -> tuple[Tensor, Tensor]:
        hidden, residual = normed(self.input_norm, hidden, residual)
        hidden = self.attention_out_norm(self.attend(hidden, kv, step, lora))
        hidden, residual = normed(self.feed_forward_norm, hidden, residual)
        return self.feed_forward_out_norm(self.feed_forward(hidden, step, lora)), residual


class ParallelLayer(DecoderBranches):
    """Both branches read the stream through the same norm, at the same time."""

    def __init__(self, config: DecoderConfig, index: int, context: BuildContext) -> None:
        super().__init__(config, index, context)
        self.input_norm = stream_norm(config, context)

    def __call__(
        self, hidden: Tensor, residual: Tensor | None, kv: LayerKV, step: AttentionStep, lora: LoraPlan | None
    ) -> tuple[Tensor, Tensor]:
        hidden, residual = normed(self.input_norm, hidden, residual)
        return self.attend(hidden, kv, step, lora) + self.feed_forward(hidden, step, lora), residual


def kind_of(config: DecoderConfig) -> type[DecoderBranches]:
    return _KINDS[config.block] if config.latent is None else LatentLayer


_KINDS: dict[BlockKind, type[DecoderBranches]] = {
    "pre": DecoderLayer,
    "post": SandwichLayer,
    "sandwich": SandwichLayer,
    "parallel": ParallelLayer,
}
