"""Gemma 2: norms before and behind each branch, a sliding window in every other layer, capped scores and logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headway.server.models.base import DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.decoder_config import all_but_each, typed_sliding_windows
from headway.server.models.gemma import NORM, read_gemma_config
from headway.server.models.names import GGUF_NAMES, HF_NAMES, WeightName, without
from headway.server.models.raw_config import RawConfig

_NORMS = ("input_norm", "attention_out_norm", "feed_forward_norm", "feed_forward_out_norm")
_HF_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
_GGUF_NORMS = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
_LAYERS_OF_27B = 46

NAMES = (
    *without(HF_NAMES, "norm"),
    *(
        WeightName(f"model.layers.{{i}}.{theirs}.weight", f"layers.{{i}}.{ours}.weight", plus=1.0)
        for theirs, ours in zip(_HF_NORMS, _NORMS, strict=True)
    ),
    NORM,
)
# llama.cpp's converter has added the 1.
GGUF = (
    *without(GGUF_NAMES, "input_norm", "post_attention_norm"),
    *(WeightName(f"blk.{{i}}.{theirs}.weight", f"layers.{{i}}.{ours}.weight") for theirs, ours in zip(_GGUF_NORMS, _NORMS, strict=True)),
)


def read_config(raw: RawConfig) -> DecoderConfig:
    return read_gemma_config(
        raw.renamed(hidden_act="hidden_activation") if raw.get("hidden_activation") else raw.with_values(hidden_act="gelu_pytorch_tanh"),
        "gemma2",
        block="sandwich",
        sliding_windows=typed_sliding_windows(raw, raw.integer("sliding_window", 4096), all_but_each(raw, "sliding_window_pattern", 2)),
        attention_scale=raw.positive("query_pre_attn_scalar", 256) ** -0.5,
        attention_softcap=optional_cap(raw, "attn_logit_softcapping", 50.0),
        logit_softcap=optional_cap(raw, "final_logit_softcapping", 30.0),
    )


def optional_cap(raw: RawConfig, key: str, default: float) -> float:
    """Null means none, which is not the same as absent."""
    return raw.number(key, 0.0 if key in raw.values else default)


def gguf_values(own: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {"query_pre_attn_scalar": scores_divisor(values, _LAYERS_OF_27B)}


def scores_divisor(values: Mapping[str, Any], layers_of_27b: int) -> float:
    """What a GGUF does not say: the square of what scores are divided by, which of the 27 billion model alone is not the size of a head."""
    is_27b = values.get("num_hidden_layers") == layers_of_27b
    width = values.get("hidden_size", 0) // max(values.get("num_attention_heads", 1), 1) if is_27b else values.get("head_dim", 256)
    return float(width)


FAMILY = Family("gemma2", read_config, build_decoder, NAMES, GGUF, gguf_values=gguf_values)
