"""Qwen2 and Qwen2.5: Llama with biases on query, key and value, and a sliding window in some layers if switched on."""

from __future__ import annotations

from headway.server.models.base import DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.decoder_config import layered_sliding_windows, read_decoder_config
from headway.server.models.names import DECODER_STREAM, GGUF_NAMES, HF_NAMES
from headway.server.models.raw_config import RawConfig


def read_config(raw: RawConfig) -> DecoderConfig:
    return read_decoder_config(raw, "qwen2", qkv_bias=True, sliding_windows=layered_sliding_windows(raw))


FAMILY = Family("qwen2", read_config, build_decoder, HF_NAMES, GGUF_NAMES, DECODER_STREAM)
