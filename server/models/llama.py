"""Llama, and what shares its shape to the letter (SmolLM, Llama fine-tunes)."""

from __future__ import annotations

from headway.server.models.base import DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.decoder_config import read_decoder_config
from headway.server.models.names import DECODER_STREAM, GGUF_LLAMA_NAMES, HF_NAMES
from headway.server.models.raw_config import RawConfig


def read_config(raw: RawConfig) -> DecoderConfig:
    attention_bias = raw.flag("attention_bias")
    return read_decoder_config(raw, "llama", qkv_bias=attention_bias, o_bias=attention_bias, mlp_bias=raw.flag("mlp_bias"))


FAMILY = Family("llama", read_config, build_decoder, HF_NAMES, GGUF_LLAMA_NAMES, DECODER_STREAM)
