"""A GGUF file's metadata put into the form of a config.json, so that each family reads one form only."""

from __future__ import annotations

import dataclasses
from typing import Any

from headway.server.errors import ModelSourceError
from headway.server.loading.gguf_file import FOUR_BIT_TYPES, FULL_PRECISION_TYPES, GgufFile
from headway.server.models.base import DecoderConfig, Family
from headway.server.models.raw_config import RawConfig
from headway.server.models.registry import GGUF_SIGMOID_MIXTURES, gguf_family_of

_LONG_FACTORS, _SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"
# config.json key -> GGUF key behind the architecture's prefix
_KEYS = {
    "num_hidden_layers": "block_count",
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "head_dim": "attention.key_length",
    "rope_theta": "rope.freq_base",
    "layer_norm_eps": "attention.layer_norm_epsilon",
    "layer_norm_epsilon": "attention.layer_norm_epsilon",
    "norm_epsilon": "attention.layer_norm_epsilon",
    "sliding_window": "attention.sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "num_local_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
}
# Tensors whose biases tell of the others': one of each group is there.
_BIASES = {
    "qkv_bias": ("attn_q", "attn_qkv"),
    "o_bias": ("attn_output",),
    "mlp_bias": ("ffn_gate", "ffn_up"),
}
_RENORMALISING = ("qwen3moe",)  # whose files do not say that a token's weights add up to 1
_SOFTMAX, _SIGMOID = 1, 2  # expert_gating_func
# What changes a model's results and no family of ours has.
_NEUTRAL = {"attention.temperature_scale": 0.0, "attention.clamp_kqv": 0.0, "attention.max_alibi_bias": 0.0, "attention.causal": True}
_NEUTRAL_SCALING = {"attn_factor": 1.0, "yarn_attn_factor": 1.0, "yarn_ext_factor": 1.0}


def read_gguf_config(file: GgufFile) -> tuple[Family, DecoderConfig]:
    """Raises ModelSourceError for an architecture or a feature that is not supported."""
    architecture = str(file.metadata.get("general.architecture", ""))
    prefix = f"{architecture}."
    own = {key.removeprefix(prefix): value for key, value in file.metadata.items() if key.startswith(prefix)}
    raw = RawConfig(own, f"GGUF metadata ({file.origin})")
    num_experts, gating = raw.integer("expert_count", 0), raw.integer("expert_gating_func", 0) or _unsaid_gating(file)
    family = gguf_family_of(architecture, file.origin, has_experts=num_experts > 0, has_sigmoids=gating == _SIGMOID)
    if gating != _SOFTMAX and (gating != _SIGMOID or architecture not in GGUF_SIGMOID_MIXTURES):
        raise raw.refusal(f"expert_gating_func is {gating}, which is not supported for {architecture}")
    _refuse_unknown(own, raw)
    values = {key: own[name] for key, name in _KEYS.items() if name in own}
    embedding = file.index.get("token_embd.weight")
    if embedding is None:
        raise ModelSourceError(f"{file.origin} has no tensor token_embd.weight: it is not a whole model; name the full GGUF file.")
    values |= {
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": "output.weight" not in file.index,
        "rope_parameters": _rope_parameters(own, raw, file),
        "norm_topk_prob": architecture in _RENORMALISING,
        "scoring_func": "sigmoid" if gating == _SIGMOID else "softmax",
    }
    if family.gguf_values is not None:
        values |= family.gguf_values(own, values)
    config = family.read_config(RawConfig(values, f"GGUF metadata ({file.origin})"))
    if num_experts and config.mixture is None:
        raise raw.refusal(f"expert_count is {num_experts}: mixtures of experts are not supported for {architecture}")
    return family, dataclasses.replace(config, **_from_tensors(file, own, config, family))


def _unsaid_gating(file: GgufFile) -> int:
    """Biases that choose experts came with sigmoids (DeepSeek-V3)."""
    return _SIGMOID if any(name.endswith(".exp_probs_b.bias") for name in file.index) else _SOFTMAX


def _refuse_unknown(own: dict[str, Any], raw: RawConfig) -> None:
    """``own`` typed is ``raw``."""
    key_length = own.get("attention.key_length")
    if own.get("attention.value_length", key_length) != key_length and not _has_latents(own):
        raise raw.refusal("keys and values differ in size, which is not supported")
    if odd := next((key for key, neutral in _NEUTRAL.items() if own.get(key, neutral) != neutral), None):
        raise raw.refusal(f"{odd} is {own[odd]!r}, which is not supported")


def _has_latents(own: dict[str, Any]) -> bool:
    """Then its key_length and value_length are those of the cache, or of what is made of it: the family reads them."""
    return "attention.kv_lora_rank" in own


def _rope_parameters(own: dict[str, Any], raw: RawConfig, file: GgufFile) -> dict[str, Any]:
    """``own`` typed is ``raw``."""
    rope: dict[str, Any] = {"rope_type": raw.text("rope.scaling.type", "none").replace("none", "default")}
    if "rope.freq_base" in own:
        rope["rope_theta"] = own["rope.freq_base"]
    if "rope.dimension_count" in own and not _has_latents(own):
        rope["partial_rotary_factor"] = raw.number("rope.dimension_count") / _head_dim(raw)
    if _LONG_FACTORS in file.index:
        return rope | _longrope(own, file)
    if rope["rope_type"] == "default":
        return rope
    multiplier = raw.number("rope.scaling.yarn_log_multiplier", 0.0)
    is_odd = any(own.get(f"rope.scaling.{key}", neutral) != neutral for key, neutral in _NEUTRAL_SCALING.items())
    if is_odd or (multiplier and not _has_latents(own)):
        raise raw.refusal("rope.scaling has a magnitude of its own, which is not supported")
    if multiplier:
        # A tenth of mscale_all_dim. That mscale is the same is not said, and holds for all that was published.
        rope["mscale"] = rope["mscale_all_dim"] = 10 * multiplier
    names = {
        "factor": "factor",
        "original_max_position_embeddings": "original_context_length",
        "beta_fast": "yarn_beta_fast",
        "beta_slow": "yarn_beta_slow",
    }
    return rope | {key: own[f"rope.scaling.{name}"] for key, name in names.items() if f"rope.scaling.{name}" in own}


def _longrope(own: dict[str, Any], file: GgufFile) -> dict[str, Any]:
    """Its factors are tensors, and the magnitude is always said."""
    short, long = (file.read(name).reshape(-1).tolist() if name in file.index else None for name in (_SHORT_FACTORS, _LONG_FACTORS))
    rope = {"rope_type": "longrope", "short_factor": short, "long_factor": long}
    names = {"attention_factor": "rope.scaling.attn_factor", "original_max_position_embeddings": "rope.scaling.original_context_length"}
    return rope | {key: own[name] for key, name in names.items() if name in own}


def _head_dim(raw: RawConfig) -> int:
    head_dim = raw.integer("attention.key_length", 0) or raw.integer("embedding_length") // max(raw.integer("attention.head_count"), 1)
    if head_dim < 1:
        raise raw.refusal(f"the size of a head must be at least 1, not {head_dim}")
    return head_dim


def _from_tensors(file: GgufFile, own: dict[str, Any], config: DecoderConfig, family: Family) -> dict[str, Any]:
    """What a GGUF says only by the tensors that it has."""
    types = {tensor.type for tensor in file.index.values() if len(tensor.shape) > 1}
    dtypes = [FULL_PRECISION_TYPES[kind] for kind in types if kind in FULL_PRECISION_TYPES]
    changes: dict[str, Any] = {
        **{key: any(f"blk.0.{name}.bias" in file.index for name in names) for key, names in _BIASES.items()},
        "qk_norm": config.qk_norm or "blk.0.attn_q_norm.weight" in file.index,
        "is_quantized_gguf": not types <= FULL_PRECISION_TYPES.keys(),
        "four_bit_linears": _four_bit_linears(file, config, family),
        # Quantised weights carry fp16 scales of what mostly was a bf16 model, whose range fp16 may not have.
        "checkpoint_dtype": dtypes[0] if len(dtypes) == len(types) == 1 else "bfloat16",
    }
    if own.get("attention.sliding_window") and not config.sliding_windows:
        changes["sliding_windows"] = (own["attention.sliding_window"],) * config.num_layers
    if config.mixture is not None:
        dense = frozenset(i for i in range(config.num_layers) if f"blk.{i}.ffn_gate_inp.weight" not in file.index)
        changes["mixture"] = dataclasses.replace(config.mixture, dense_layers=dense)
    if "rope_freqs.weight" in file.index:
        divisors = tuple(file.read("rope_freqs.weight").reshape(-1).tolist())
        changes["rope"] = dataclasses.replace(config.rope, freq_divisors=divisors)
    return changes


def _four_bit_linears(file: GgufFile, config: DecoderConfig, family: Family) -> frozenset[str]:
    kinds = {name: tensor.type for name, tensor in file.index.items() if len(tensor.shape) == 2}
    for pattern in family.stacks:
        for stack in pattern.expanded(config.num_layers):
            tensor = file.index.get(stack.checkpoint)
            if tensor is not None and len(tensor.shape) == 3:
                kinds |= {part.replace("{e}", str(e)): tensor.type for part in stack.parts for e in range(config.num_experts)}
    bits: dict[str, set[bool]] = {}
    for named in family.gguf_names:
        for name in named.expanded(config.num_layers, config.num_experts):
            if name.checkpoint in kinds:
                bits.setdefault(name.weight, set()).add(kinds[name.checkpoint] in FOUR_BIT_TYPES)
    return frozenset(weight for weight, are_four in bits.items() if all(are_four))
