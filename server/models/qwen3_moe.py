"""Qwen3-MoE: Qwen3 with mixtures of experts."""

from __future__ import annotations

from headway.server.models.base import DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.decoder_config import read_decoder_config
from headway.server.models.expert_names import GGUF_EXPERT_NAMES, GGUF_STACKS, HF_EXPERT_NAMES, HF_STACKS, MIXTURE_STREAM
from headway.server.models.mixture_config import qwen_dense_layers, read_mixture
from headway.server.models.names import GGUF_NAMES, HF_NAMES
from headway.server.models.raw_config import RawConfig


def read_config(raw: RawConfig) -> DecoderConfig:
    attention_bias = raw.flag("attention_bias")
    window = raw.integer("sliding_window", 0) if raw.flag("use_sliding_window") else 0
    mixture = read_mixture(
        raw,
        "num_experts",
        "num_local_experts",
        intermediate_size=raw.size("moe_intermediate_size"),
        renormalise=raw.flag("norm_topk_prob"),
        dense_layers=qwen_dense_layers(raw),
    )
    return read_decoder_config(
        raw,
        "qwen3_moe",
        qk_norm=True,
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        sliding_windows=(window,) * raw.size("num_hidden_layers"),
        mixture=mixture,
    )


FAMILY = Family(
    "qwen3_moe",
    read_config,
    build_decoder,
    (*HF_NAMES, *HF_EXPERT_NAMES),
    (*GGUF_NAMES, *GGUF_EXPERT_NAMES),
    MIXTURE_STREAM,
    stacks=(*HF_STACKS, *GGUF_STACKS),
)
