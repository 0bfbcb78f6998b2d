"""GPT-2: learned positions, layer norms, biases everywhere, and matrices that its checkpoints have transposed."""

from __future__ import annotations

from headway.server.models.base import DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.decoder_config import read_decoder_config
from headway.server.models.names import WeightName, biased
from headway.server.models.raw_config import RawConfig

_QKV = ("q", "k", "v")
_NAMES = (
    WeightName("transformer.wte.weight", "embed_tokens.weight"),
    WeightName("transformer.wpe.weight", "embed_positions.weight"),
    *biased("transformer.h.{i}.ln_1", "layers.{i}.input_norm"),
    *biased("transformer.h.{i}.attn.c_attn", "layers.{i}.qkv", parts=_QKV, is_transposed=True),
    *biased("transformer.h.{i}.attn.c_proj", "layers.{i}.o", is_transposed=True),
    *biased("transformer.h.{i}.ln_2", "layers.{i}.post_attention_norm"),
    *biased("transformer.h.{i}.mlp.c_fc", "layers.{i}.up", is_transposed=True),
    *biased("transformer.h.{i}.mlp.c_proj", "layers.{i}.down", is_transposed=True),
    *biased("transformer.ln_f", "norm"),
    WeightName("lm_head.weight", "lm_head.weight"),
)
_GGUF = (
    WeightName("token_embd.weight", "embed_tokens.weight"),
    WeightName("position_embd.weight", "embed_positions.weight"),
    *biased("blk.{i}.attn_norm", "layers.{i}.input_norm"),
    *biased("blk.{i}.attn_qkv", "layers.{i}.qkv", parts=_QKV),
    *biased("blk.{i}.attn_output", "layers.{i}.o"),
    *biased("blk.{i}.ffn_norm", "layers.{i}.post_attention_norm"),
    *biased("blk.{i}.ffn_up", "layers.{i}.up"),
    *biased("blk.{i}.ffn_down", "layers.{i}.down"),
    *biased("output_norm", "norm"),
    WeightName("output.weight", "lm_head.weight"),
)
_OWN_KEYS = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "intermediate_size": "n_inner",
    "hidden_act": "activation_function",
}
_MASKS = (".attn.bias", ".attn.masked_bias")  # the first checkpoints have them as tensors


def read_config(raw: RawConfig) -> DecoderConfig:
    if raw.get("n_embd") is not None:
        raw = raw.renamed(**_OWN_KEYS)
    if not raw.flag("scale_attn_weights", True) or raw.flag("scale_attn_by_inverse_layer_idx"):
        raise raw.refusal("scale_attn_weights is false or scale_attn_by_inverse_layer_idx is true, which is not supported")
    if raw.flag("add_cross_attention"):
        raise raw.refusal("add_cross_attention is true: decoders that read an encoder's output are not supported")
    width = raw.size("intermediate_size", 4 * raw.size("hidden_size"))
    return read_decoder_config(
        raw.with_values(hidden_act=raw.text("hidden_act", "gelu_new"), intermediate_size=width, num_key_value_heads=None),
        "gpt2",
        is_tied=True,
        is_gated=False,
        has_rope=False,
        eps_key="layer_norm_epsilon",
        norm="layer",
        norm_bias=True,
        num_positions=raw.size("max_position_embeddings"),
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
    )


FAMILY = Family("gpt2", read_config, build_decoder, _NAMES, _GGUF, prefix="transformer.", ignored=_MASKS)
