"""Command R7B and Command A: Command R with a sliding window in three layers of four, and positions in these alone."""

from __future__ import annotations

from dataclasses import replace

from headway.server.layers.rope_config import NO_ROPE
from headway.server.models.base import DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.cohere import GGUF, NAMES, gguf_values, read_cohere_config
from headway.server.models.decoder_config import all_but_each, typed_sliding_windows
from headway.server.models.raw_config import RawConfig


def read_config(raw: RawConfig) -> DecoderConfig:
    windows = typed_sliding_windows(raw, raw.integer("sliding_window", 4096), all_but_each(raw, "sliding_window_pattern", 4))
    config = read_cohere_config(raw, "cohere2", sliding_windows=windows)
    rope = replace(config.rope, is_interleaved=True)
    return replace(config, rope=rope, ropes=tuple(rope if window else NO_ROPE for window in windows))


FAMILY = Family("cohere2", read_config, build_decoder, NAMES, GGUF, gguf_values=gguf_values)
