"""Gemma 3, of text alone: Gemma 2 without caps, with normalised heads; five layers with a window and their own rope to one without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headway.server.models.base import DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.decoder_config import all_but_each, typed_sliding_windows
from headway.server.models.gemma import read_gemma_config
from headway.server.models.gemma2 import GGUF, NAMES, optional_cap, scores_divisor
from headway.server.models.names import WeightName
from headway.server.models.raw_config import RawConfig, read_rope

_LAYERS_OF_27B = 62
_KINDS = ("full_attention", "sliding_attention")
_THETA, _LOCAL_THETA = 1_000_000.0, 10_000.0

_HEAD_NORMS = tuple(
    WeightName(f"model.layers.{{i}}.self_attn.{name}.weight", f"layers.{{i}}.attention.{name}.weight", plus=1.0)
    for name in ("q_norm", "k_norm")
)


def read_config(raw: RawConfig) -> DecoderConfig:
    windows = typed_sliding_windows(raw, raw.integer("sliding_window", 4096), all_but_each(raw, "sliding_window_pattern", 6))
    whole, local = _ropes(raw)
    head_dim, max_position = raw.size("head_dim", 256), raw.size("max_position_embeddings", 131_072)
    rope, local_rope = read_rope(whole, head_dim, max_position, _THETA), read_rope(local, head_dim, max_position, _LOCAL_THETA)
    return read_gemma_config(
        whole.with_values(hidden_act=raw.text("hidden_activation", "gelu_pytorch_tanh"), max_position_embeddings=max_position),
        "gemma3",
        block="sandwich",
        qk_norm=True,
        sliding_windows=windows,
        rope=rope,
        ropes=tuple(local_rope if window else rope for window in windows),
        attention_scale=raw.positive("query_pre_attn_scalar", 256) ** -0.5,
        attention_softcap=optional_cap(raw, "attn_logit_softcapping", 0.0),
        logit_softcap=optional_cap(raw, "final_logit_softcapping", 0.0),
    )


def _ropes(raw: RawConfig) -> tuple[RawConfig, RawConfig]:
    """The config as layers without a window see it, and as those with one do, whose rope no scaling of a context's length changes."""
    own = raw.get("rope_parameters")
    if isinstance(own, dict) and isinstance(own.get("full_attention"), dict):
        whole, local = (raw.with_values(rope_parameters=own.get(kind) or {}, rope_scaling=None) for kind in _KINDS)
        return whole, local
    theta = raw.number("rope_local_base_freq", _LOCAL_THETA)
    return raw, raw.with_values(rope_parameters=None, rope_scaling=None, rope_theta=theta)


def gguf_values(own: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    found = {"query_pre_attn_scalar": scores_divisor(values, _LAYERS_OF_27B)}
    if "rope.freq_base_swa" in own:
        found["rope_local_base_freq"] = own["rope.freq_base_swa"]
    return found


FAMILY = Family("gemma3", read_config, build_decoder, (*NAMES, *_HEAD_NORMS), GGUF, gguf_values=gguf_values)
