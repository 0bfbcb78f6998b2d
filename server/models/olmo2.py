"""OLMo 2: norms behind the branches, and queries and keys normalised over all heads together."""

from __future__ import annotations

from headway.server.models.base import DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.decoder_config import read_decoder_config
from headway.server.models.names import GGUF_NAMES, HF_NAMES, WeightName, without
from headway.server.models.raw_config import RawConfig


def _with_norms(names: tuple[WeightName, ...], attention: str, feed_forward: str) -> tuple[WeightName, ...]:
    return (
        *without(names, "input_norm", "post_attention_norm"),
        WeightName(attention, "layers.{i}.attention_out_norm.weight"),
        WeightName(feed_forward, "layers.{i}.feed_forward_out_norm.weight"),
    )


_NAMES = _with_norms(HF_NAMES, "model.layers.{i}.post_attention_layernorm.weight", "model.layers.{i}.post_feedforward_layernorm.weight")
_GGUF = _with_norms(GGUF_NAMES, "blk.{i}.post_attention_norm.weight", "blk.{i}.post_ffw_norm.weight")


def read_config(raw: RawConfig) -> DecoderConfig:
    if raw.get("sliding_window"):
        raise raw.refusal("sliding_window is set, as in OLMo 3, of which only safetensors are supported")
    bias = raw.flag("attention_bias")
    return read_decoder_config(
        raw, "olmo2", block="post", norm="exact_rms", qk_norm=True, has_whole_qk_norm=True, qkv_bias=bias, o_bias=bias
    )


FAMILY = Family("olmo2", read_config, build_decoder, _NAMES, _GGUF)
