"""gpt-oss: mixtures of experts with biases and a clamped gate, attention sinks, and a sliding window in every second layer."""

from __future__ import annotations

from dataclasses import replace

from headway.server.layers.quant.scheme import MXFP4
from headway.server.models.base import DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.decoder_config import read_decoder_config, typed_sliding_windows
from headway.server.models.expert_names import (
    GGUF_EXPERT_BIASES,
    GGUF_EXPERT_NAMES,
    GGUF_STACKS,
    GPT_OSS_NAMES,
    GPT_OSS_STACKS,
    MIXTURE_STREAM,
)
from headway.server.models.mixture_config import read_mixture
from headway.server.models.names import GGUF_NAMES, HF_NAMES, WeightName
from headway.server.models.raw_config import RawConfig

_SINKS = "layers.{i}.attention.sinks.weight"
_GGUF_OWN = (
    WeightName("blk.{i}.attn_sinks.weight", _SINKS),
    WeightName("blk.{i}.post_attention_norm.weight", "layers.{i}.post_attention_norm.weight"),
)


def read_config(raw: RawConfig) -> DecoderConfig:
    values = dict(raw.values)
    quantization = values.get("quantization_config")
    method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else None
    if method == "mxfp4":
        del values["quantization_config"]
    elif method is not None:
        raise raw.refusal(f"quantization_config names the {method!r} format, which is not supported for gpt-oss; use mxfp4 or a GGUF")
    if isinstance(rope := values.get("rope_parameters"), dict):
        values["rope_parameters"] = {"truncate": False, **rope}  # which a GGUF does not say
    raw = RawConfig(values, raw.origin)
    bias = raw.flag("attention_bias", True)
    mixture = read_mixture(
        raw,
        "num_local_experts",
        intermediate_size=raw.size("intermediate_size"),
        renormalise=True,
        router_bias=True,
        expert_bias=True,
        swiglu_limit=raw.number("swiglu_limit", 7.0),
        swiglu_alpha=raw.number("swiglu_alpha", 1.702),
    )
    windows = typed_sliding_windows(raw, raw.integer("sliding_window", 128), lambda layer: layer % 2 == 0)
    config = read_decoder_config(
        raw, "gpt_oss", default_head_dim=64, qkv_bias=bias, o_bias=bias, sliding_windows=windows, has_sinks=True, mixture=mixture
    )
    return replace(config, scheme=MXFP4) if method == "mxfp4" else config


FAMILY = Family(
    "gpt_oss",
    read_config,
    build_decoder,
    (*HF_NAMES, WeightName("model.layers.{i}.self_attn.sinks", _SINKS), *GPT_OSS_NAMES),
    (*(name for name in GGUF_NAMES if "ffn_norm" not in name.checkpoint), *GGUF_EXPERT_NAMES, *GGUF_EXPERT_BIASES, *_GGUF_OWN),
    MIXTURE_STREAM,
    stacks=(*GPT_OSS_STACKS, *GGUF_STACKS),
)
