"""OPT: learned positions from the third row on, layer norms, biases, and a feed-forward layer with ReLU."""

from __future__ import annotations

from headway.server.models.base import DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.decoder_config import read_decoder_config
from headway.server.models.names import WeightName, biased
from headway.server.models.raw_config import RawConfig

_FIRST_POSITION = 2
_LAYER = "model.decoder.layers.{i}"
_NAMES = (
    WeightName("model.decoder.embed_tokens.weight", "embed_tokens.weight"),
    WeightName("model.decoder.embed_positions.weight", "embed_positions.weight"),
    *biased(f"{_LAYER}.self_attn_layer_norm", "layers.{i}.input_norm"),
    *biased(f"{_LAYER}.self_attn.q_proj", "layers.{i}.qkv", part="q"),
    *biased(f"{_LAYER}.self_attn.k_proj", "layers.{i}.qkv", part="k"),
    *biased(f"{_LAYER}.self_attn.v_proj", "layers.{i}.qkv", part="v"),
    *biased(f"{_LAYER}.self_attn.out_proj", "layers.{i}.o"),
    *biased(f"{_LAYER}.final_layer_norm", "layers.{i}.post_attention_norm"),
    *biased(f"{_LAYER}.fc1", "layers.{i}.up"),
    *biased(f"{_LAYER}.fc2", "layers.{i}.down"),
    *biased("model.decoder.final_layer_norm", "norm"),
    WeightName("lm_head.weight", "lm_head.weight"),
)


def read_config(raw: RawConfig) -> DecoderConfig:
    hidden_size, bias = raw.size("hidden_size"), raw.flag("enable_bias", True)
    if not raw.flag("do_layer_norm_before", True) or raw.size("word_embed_proj_dim", hidden_size) != hidden_size:
        raise raw.refusal("do_layer_norm_before is false or word_embed_proj_dim is not hidden_size, as in OPT-350m, which is not supported")
    if raw.flag("_remove_final_layer_norm") or not raw.flag("layer_norm_elementwise_affine", True):
        raise raw.refusal("the last layer norm or the weights of all of them are left out, which is not supported")
    return read_decoder_config(
        raw.renamed(intermediate_size="ffn_dim").with_values(hidden_act=raw.text("activation_function", "relu"), num_key_value_heads=None),
        "opt",
        is_tied=True,
        is_gated=False,
        has_rope=False,
        eps_key="layer_norm_eps",
        norm="layer",
        norm_bias=True,
        num_positions=raw.size("max_position_embeddings") + _FIRST_POSITION,
        first_position=_FIRST_POSITION,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=bias,
    )


FAMILY = Family("opt", read_config, build_decoder, _NAMES, ())
