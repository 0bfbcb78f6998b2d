"""Qwen1.5-MoE and Qwen2-MoE: Qwen2 with mixtures of experts, one of which sees every token."""

from __future__ import annotations

from headway.server.models.base import DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.decoder_config import layered_sliding_windows, read_decoder_config
from headway.server.models.expert_names import (
    GGUF_EXPERT_NAMES,
    GGUF_SHARED_NAMES,
    GGUF_STACKS,
    HF_EXPERT_NAMES,
    HF_SHARED_NAMES,
    HF_STACKS,
    MIXTURE_STREAM,
)
from headway.server.models.mixture_config import qwen_dense_layers, read_mixture
from headway.server.models.names import GGUF_NAMES, HF_NAMES
from headway.server.models.raw_config import RawConfig


def read_config(raw: RawConfig) -> DecoderConfig:
    mixture = read_mixture(
        raw,
        "num_experts",
        "num_local_experts",
        intermediate_size=raw.size("moe_intermediate_size"),
        renormalise=raw.flag("norm_topk_prob"),
        shared_size=raw.size("shared_expert_intermediate_size"),
        dense_layers=qwen_dense_layers(raw),
    )
    return read_decoder_config(
        raw, "qwen2_moe", qkv_bias=raw.flag("qkv_bias", True), sliding_windows=layered_sliding_windows(raw), mixture=mixture
    )


FAMILY = Family(
    "qwen2_moe",
    read_config,
    build_decoder,
    (*HF_NAMES, *HF_EXPERT_NAMES, *HF_SHARED_NAMES),
    (*GGUF_NAMES, *GGUF_EXPERT_NAMES, *GGUF_SHARED_NAMES),
    MIXTURE_STREAM,
    stacks=(*HF_STACKS, *GGUF_STACKS),
)
