"""The kind of decoder layer whose attention keeps latents; otherwise the one of models/decoder.py."""

from __future__ import annotations

from torch import Tensor

from headway.kernels.plans import LoraPlan
from headway.server.layers.attention import AttentionStep
from headway.server.layers.forward import LayerKV
from headway.server.layers.latent_attention import LatentAttention
from headway.server.layers.linear import RowParallelLinear
from headway.server.models.base import BuildContext, DecoderConfig
from headway.server.models.decoder import DecoderLayer


class LatentLayer(DecoderLayer):
    def __init__(self, config: DecoderConfig, index: int, context: BuildContext) -> None:
        super().__init__(config, index, context)
        self._is_fusable = False

    def _build_attention(self, config: DecoderConfig, index: int, context: BuildContext) -> None:
        latent = config.latent
        assert latent is not None, "a decoder of this kind has latents"
        method, group, rotation = context.method, context.group, config.rotation(index)
        self.latent = LatentAttention(
            latent,
            config.hidden_size,
            config.num_heads,
            has_bias=config.qkv_bias,
            scale=config.attention_scale,
            rotation=rotation,
            is_interleaved=config.distinct_ropes[rotation].is_interleaved,
            method=method,
            group=group,
            dtype=context.dtype,
            device=context.device,
        )
        self.o = RowParallelLinear(config.num_heads * latent.v_dim, config.hidden_size, bias=config.o_bias, method=method, group=group)

    def attend(self, hidden: Tensor, kv: LayerKV, step: AttentionStep, lora: LoraPlan | None) -> Tensor:
        hidden = self._group.all_rows(hidden, len(step.positions))
        return self._scaled(self.o(self.latent(hidden, kv, step, lora), lora))
