"""Gemma: norms whose weights are kept as what they differ from 1, scaled embeddings, and a head that is tied to them."""

from __future__ import annotations

from typing import Any

from headway.server.models.base import DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.decoder_config import read_decoder_config
from headway.server.models.names import GGUF_NAMES, HF_NAMES, WeightName, without
from headway.server.models.raw_config import RawConfig

NORM = WeightName("model.norm.weight", "norm.weight", plus=1.0)
NAMES = (
    *without(HF_NAMES, "norm"),
    WeightName("model.layers.{i}.input_layernorm.weight", "layers.{i}.input_norm.weight", plus=1.0),
    WeightName("model.layers.{i}.post_attention_layernorm.weight", "layers.{i}.post_attention_norm.weight", plus=1.0),
    NORM,
)


def read_config(raw: RawConfig) -> DecoderConfig:
    if raw.text("hidden_act", "gelu") == "gelu":
        raw = raw.with_values(hidden_act="gelu_pytorch_tanh")  # the first release's files say gelu and mean this
    return read_gemma_config(raw, "gemma")


def read_gemma_config(raw: RawConfig, family: str, **own: Any) -> DecoderConfig:
    """What all generations have in common."""
    if raw.get("use_bidirectional_attention"):
        raise raw.refusal("use_bidirectional_attention is true: tokens that see later ones are not supported in decoders")
    bias = raw.flag("attention_bias")
    return read_decoder_config(
        raw,
        family,
        default_head_dim=256,
        is_tied=True,
        norm="exact_rms",
        embedding_scale=raw.size("hidden_size") ** 0.5,
        qkv_bias=bias,
        o_bias=bias,
        **own,
    )


FAMILY = Family("gemma", read_config, build_decoder, NAMES, GGUF_NAMES)
