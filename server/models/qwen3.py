"""Qwen3 (dense): heads of their own size, normalised before rotation, and no biases unless asked for."""

from __future__ import annotations

from headway.server.models.base import DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.decoder_config import layered_sliding_windows, read_decoder_config
from headway.server.models.names import DECODER_STREAM, GGUF_NAMES, HF_NAMES
from headway.server.models.raw_config import RawConfig


def read_config(raw: RawConfig) -> DecoderConfig:
    attention_bias = raw.flag("attention_bias")
    return read_decoder_config(
        raw,
        "qwen3",
        default_head_dim=128,
        qk_norm=True,
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        sliding_windows=layered_sliding_windows(raw),
    )


FAMILY = Family("qwen3", read_config, build_decoder, HF_NAMES, GGUF_NAMES, DECODER_STREAM)
