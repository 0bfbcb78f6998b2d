"""StarCoder2: layer norms, biases, a feed-forward layer without a gate, and a sliding window."""

from __future__ import annotations

from headway.server.models.base import DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.decoder_config import read_decoder_config
from headway.server.models.names import GGUF_NAMES, HF_NAMES, WeightName, biased, without
from headway.server.models.raw_config import RawConfig


def _layer_norms(names: tuple[WeightName, ...]) -> tuple[WeightName, ...]:
    """Those of norms with a bias beside each weight, and none of a gated feed-forward layer."""
    norms = [name for name in names if name.weight.endswith("norm.weight") and "attention." not in name.weight]
    pairs = [biased(norm.checkpoint.removesuffix(".weight"), norm.weight.removesuffix(".weight")) for norm in norms]
    return (*without(names, "norm", "gate_up", "down"), *(name for pair in pairs for name in pair))


_NAMES = (
    *_layer_norms(HF_NAMES),
    *biased("model.layers.{i}.mlp.c_fc", "layers.{i}.up"),
    *biased("model.layers.{i}.mlp.c_proj", "layers.{i}.down"),
)
_GGUF = (*_layer_norms(GGUF_NAMES), *biased("blk.{i}.ffn_up", "layers.{i}.up"), *biased("blk.{i}.ffn_down", "layers.{i}.down"))


def read_config(raw: RawConfig) -> DecoderConfig:
    bias, window = raw.flag("use_bias", True), raw.integer("sliding_window", 0)
    return read_decoder_config(
        raw.with_values(hidden_act=raw.text("hidden_act", "gelu_pytorch_tanh")),
        "starcoder2",
        is_tied=True,
        is_gated=False,
        eps_key="norm_epsilon",
        norm="layer",
        norm_bias=True,
        sliding_windows=(window,) * raw.size("num_hidden_layers"),
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=bias,
    )


FAMILY = Family("starcoder2", read_config, build_decoder, _NAMES, _GGUF)
