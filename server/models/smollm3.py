"""SmolLM3: Llama without positions in every fourth layer."""

from __future__ import annotations

from dataclasses import replace

from headway.server.layers.rope_config import NO_ROPE
from headway.server.models.base import DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.decoder_config import all_but_each, read_decoder_config, typed_sliding_windows
from headway.server.models.names import DECODER_STREAM, GGUF_LLAMA_NAMES, HF_NAMES
from headway.server.models.raw_config import RawConfig


def read_config(raw: RawConfig) -> DecoderConfig:
    has_rope, attention_bias = _layers_with_rope(raw), raw.flag("attention_bias")
    window = raw.integer("sliding_window", 0) if raw.flag("use_sliding_window") else 0
    config = read_decoder_config(
        raw,
        "smollm3",
        default_theta=2_000_000.0,
        is_tied=True,
        sliding_windows=typed_sliding_windows(raw, window, lambda layer: not has_rope[layer]),
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        mlp_bias=raw.flag("mlp_bias"),
    )
    return replace(config, ropes=tuple(config.rope if has else NO_ROPE for has in has_rope))


def _layers_with_rope(raw: RawConfig) -> list[bool]:
    num_layers, switches = raw.size("num_hidden_layers"), raw.get("no_rope_layers")
    if switches is None:
        has_rope = all_but_each(raw, "no_rope_layer_interval", 4)
        return [has_rope(layer) for layer in range(num_layers)]
    if not isinstance(switches, list) or len(switches) != num_layers or any(switch not in (0, 1) for switch in switches):
        raise raw.refusal(f"no_rope_layers must have a 1 (rope) or 0 (none) for each of {num_layers} layers, not {switches!r}")
    return [bool(switch) for switch in switches]


FAMILY = Family("smollm3", read_config, build_decoder, HF_NAMES, GGUF_LLAMA_NAMES, DECODER_STREAM)
