"""Mistral: Llama with a sliding window in every layer, or none. GGUF files of it name the llama architecture."""

from __future__ import annotations

from headway.server.models.base import DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.decoder_config import read_decoder_config
from headway.server.models.names import DECODER_STREAM, GGUF_LLAMA_NAMES, HF_NAMES
from headway.server.models.raw_config import RawConfig


def read_config(raw: RawConfig) -> DecoderConfig:
    if raw.get("layer_types") is not None:
        raise raw.refusal("layer_types alternates attention between layers, which Mistral models don't do")
    # Null means no window; only a config that never mentions it has the 4,096 of the first release.
    window = raw.integer("sliding_window", 0) if "sliding_window" in raw.values else 4096
    return read_decoder_config(raw, "mistral", sliding_windows=(window,) * raw.size("num_hidden_layers"))


FAMILY = Family("mistral", read_config, build_decoder, HF_NAMES, GGUF_LLAMA_NAMES, DECODER_STREAM)
