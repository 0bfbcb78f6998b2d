"""Command R and R+: both branches side by side behind one layer norm, neighbours rotated as pairs, scaled logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headway.server.models.base import DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.decoder_config import read_decoder_config
from headway.server.models.names import GGUF_NAMES, HF_NAMES, without
from headway.server.models.raw_config import RawConfig

NAMES = without(HF_NAMES, "post_attention_norm")
GGUF = without(GGUF_NAMES, "post_attention_norm")


def read_config(raw: RawConfig) -> DecoderConfig:
    config = read_cohere_config(raw, "cohere", default_theta=500_000.0, qk_norm=raw.flag("use_qk_norm"))
    return replace(config, rope=replace(config.rope, is_interleaved=True))


def read_cohere_config(raw: RawConfig, family: str, **own: Any) -> DecoderConfig:
    """What both generations have in common."""
    bias = raw.flag("attention_bias")
    return read_decoder_config(
        raw,
        family,
        is_tied=True,
        eps_key="layer_norm_eps",
        norm="layer",
        block="parallel",
        qkv_bias=bias,
        o_bias=bias,
        logit_scale=raw.number("logit_scale", 0.0625),
        **own,
    )


def gguf_values(own: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {"logit_scale": own["logit_scale"]} if "logit_scale" in own else {}


FAMILY = Family("cohere", read_config, build_decoder, NAMES, GGUF, gguf_values=gguf_values)
