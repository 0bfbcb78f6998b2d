"""Granite 3 and later (dense): Llama with numbers that scale embeddings, scores, branches and logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headway.server.models.base import DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.decoder_config import read_decoder_config
from headway.server.models.names import DECODER_STREAM, GGUF_LLAMA_NAMES, HF_NAMES
from headway.server.models.raw_config import RawConfig

# config.json -> GGUF
_SCALES = {
    "embedding_multiplier": "embedding_scale",
    "attention_multiplier": "attention.scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}


def read_config(raw: RawConfig) -> DecoderConfig:
    attention_bias, divisor = raw.flag("attention_bias"), raw.number("logits_scaling", 1.0)
    if divisor == 0:
        raise raw.refusal("logits_scaling must not be 0")
    return read_decoder_config(
        raw,
        "granite",
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        mlp_bias=raw.flag("mlp_bias"),
        embedding_scale=raw.number("embedding_multiplier", 1.0),
        attention_scale=raw.number("attention_multiplier", 1.0),
        residual_scale=raw.number("residual_multiplier", 1.0),
        logit_scale=1 / divisor,
    )


def _gguf_values(own: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: own[name] for key, name in _SCALES.items() if name in own}


FAMILY = Family("granite", read_config, build_decoder, HF_NAMES, GGUF_LLAMA_NAMES, DECODER_STREAM, gguf_values=_gguf_values)
