"""Phi-3, Phi-3.5 and Phi-4: Llama with its projections as fused tensors, a sliding window in some, and long rope."""

from __future__ import annotations

from headway.server.models.base import DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.decoder_config import read_decoder_config
from headway.server.models.names import DECODER_STREAM, GGUF_NAMES, HF_NAMES, WeightName, without
from headway.server.models.raw_config import RawConfig

_QKV, _GATE_UP = ("q", "k", "v"), ("gate", "up")
_NAMES = (
    *without(HF_NAMES, "qkv", "gate_up"),
    WeightName("model.layers.{i}.self_attn.qkv_proj.weight", "layers.{i}.qkv.weight", parts=_QKV),
    WeightName("model.layers.{i}.mlp.gate_up_proj.weight", "layers.{i}.gate_up.weight", parts=_GATE_UP),
)
_GGUF = (
    *without(GGUF_NAMES, "qkv", "gate_up"),
    WeightName("blk.{i}.attn_qkv.weight", "layers.{i}.qkv.weight", parts=_QKV),
    WeightName("blk.{i}.ffn_up.weight", "layers.{i}.gate_up.weight", parts=_GATE_UP),
)


def read_config(raw: RawConfig) -> DecoderConfig:
    window = raw.integer("sliding_window", 0)
    return read_decoder_config(raw, "phi3", sliding_windows=(window,) * raw.size("num_hidden_layers"))


FAMILY = Family("phi3", read_config, build_decoder, _NAMES, _GGUF, DECODER_STREAM)
