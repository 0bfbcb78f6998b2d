"""What DeepSeek-V2 and V3 have in common: latent attention, experts in groups, and what their checkpoints call these.

Their GGUF files have neighbours as rotary pairs, as their safetensors do: llama.cpp's converter reorders no rows of this architecture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headway.server.layers.latent_config import LatentConfig
from headway.server.models.base import ConfigReader, DecoderConfig, Family
from headway.server.models.builders import build_decoder
from headway.server.models.decoder_config import read_decoder_config
from headway.server.models.expert_names import (
    GGUF_EXPERT_NAMES,
    GGUF_SHARED_NAMES,
    GGUF_STACKS,
    HF_EXPERT_NAMES,
    HF_STACKS,
    MIXTURE_STREAM,
)
from headway.server.models.mixture_config import read_mixture
from headway.server.models.names import GGUF_NAMES, HF_NAMES, ResidualStream, WeightName, without
from headway.server.models.raw_config import RawConfig, read_rope

_ATTENTION, _OWN = "model.layers.{i}.self_attn", "layers.{i}.latent"
_SHARED, _MOE = "model.layers.{i}.mlp.shared_experts", "layers.{i}.moe"
DEEPSEEK_NAMES = (
    *without(HF_NAMES, ".qkv.", "_norm.weight"),
    WeightName("model.layers.{i}.input_layernorm.weight", "layers.{i}.input_norm.weight"),
    WeightName("model.layers.{i}.post_attention_layernorm.weight", "layers.{i}.post_attention_norm.weight"),
    WeightName(f"{_ATTENTION}.q_proj.weight", f"{_OWN}.q.weight"),
    WeightName(f"{_ATTENTION}.q_a_proj.weight", f"{_OWN}.q_a.weight"),
    WeightName(f"{_ATTENTION}.q_a_proj.bias", f"{_OWN}.q_a.bias"),
    WeightName(f"{_ATTENTION}.q_a_layernorm.weight", f"{_OWN}.q_a_norm.weight"),
    WeightName(f"{_ATTENTION}.q_b_proj.weight", f"{_OWN}.q_b.weight"),
    WeightName(f"{_ATTENTION}.kv_a_proj_with_mqa.weight", f"{_OWN}.kv_a.weight"),
    WeightName(f"{_ATTENTION}.kv_a_proj_with_mqa.bias", f"{_OWN}.kv_a.bias"),
    WeightName(f"{_ATTENTION}.kv_a_layernorm.weight", f"{_OWN}.kv_a_norm.weight"),
    WeightName(f"{_ATTENTION}.kv_b_proj.weight", f"{_OWN}.kv_b.weight"),
    *HF_EXPERT_NAMES,
    WeightName("model.layers.{i}.mlp.gate.e_score_correction_bias", f"{_MOE}.router.choice_bias"),
    WeightName(f"{_SHARED}.gate_proj.weight", f"{_MOE}.shared.gate_up.weight", "gate"),
    WeightName(f"{_SHARED}.up_proj.weight", f"{_MOE}.shared.gate_up.weight", "up"),
    WeightName(f"{_SHARED}.down_proj.weight", f"{_MOE}.shared.down.weight"),
)
_HEAD_NORMS = (".attention.q_norm.", ".attention.k_norm.")
DEEPSEEK_GGUF_NAMES = (
    *without(GGUF_NAMES, ".qkv.", *_HEAD_NORMS),
    WeightName("blk.{i}.attn_q.weight", f"{_OWN}.q.weight"),
    WeightName("blk.{i}.attn_q_a.weight", f"{_OWN}.q_a.weight"),
    WeightName("blk.{i}.attn_q_a_norm.weight", f"{_OWN}.q_a_norm.weight"),
    WeightName("blk.{i}.attn_q_b.weight", f"{_OWN}.q_b.weight"),
    WeightName("blk.{i}.attn_kv_a_mqa.weight", f"{_OWN}.kv_a.weight"),
    WeightName("blk.{i}.attn_kv_a_norm.weight", f"{_OWN}.kv_a_norm.weight"),
    WeightName("blk.{i}.attn_kv_b.weight", f"{_OWN}.kv_b.weight"),  # of newer files: see loading/gguf_latents.py
    *GGUF_EXPERT_NAMES,
    WeightName("blk.{i}.exp_probs_b.bias", f"{_MOE}.router.choice_bias"),
    *GGUF_SHARED_NAMES,
)
# config.json -> GGUF
_GGUF_KEYS = {
    "q_lora_rank": "attention.q_lora_rank",
    "kv_lora_rank": "attention.kv_lora_rank",
    "qk_rope_head_dim": "rope.dimension_count",
    "first_k_dense_replace": "leading_dense_block_count",
    "n_shared_experts": "expert_shared_count",
    "routed_scaling_factor": "expert_weights_scale",
    "norm_topk_prob": "expert_weights_norm",
    "num_nextn_predict_layers": "nextn_predict_layers",
    "n_group": "expert_group_count",
    "topk_group": "expert_group_used_count",
}
# (groups, groups that a token's experts are in) by the number of experts, of files made before October 2025, which do not say them:
# DeepSeek-V2, V2.5 and Coder-V2, and DeepSeek-V3, R1 and V3.1. All others that were published then have one group.
_GROUPS = {160: (8, 3), 256: (8, 4)}
_NORM = "layers.{i}.input_norm.weight"
DEEPSEEK_STREAM = ResidualStream(
    embedding=MIXTURE_STREAM.embedding,
    readers={**MIXTURE_STREAM.readers, **{f"{_OWN}.{name}.weight": _NORM for name in ("q", "q_a", "kv_a")}},
    writers=MIXTURE_STREAM.writers,
)


def read_deepseek_config(raw: RawConfig, family: str, **experts: Any) -> DecoderConfig:
    """``experts``: the fields of MixtureConfig that the family decides. Raises ModelSourceError for what no model of either has."""
    if raw.flag("mlp_bias"):
        raise raw.refusal("mlp_bias is true, which is not supported")
    if (step := raw.integer("moe_layer_freq", 1)) != 1:
        raise raw.refusal(f"moe_layer_freq {step} is not supported; 1 is")
    latent = LatentConfig(
        q_rank=0 if raw.get("q_lora_rank") is None else raw.size("q_lora_rank"),
        kv_rank=raw.size("kv_lora_rank"),
        nope_dim=raw.size("qk_nope_head_dim"),
        rope_dim=raw.size("qk_rope_head_dim"),
        v_dim=raw.size("v_head_dim"),
    )
    if latent.rope_dim % 2:
        raise raw.refusal(f"qk_rope_head_dim must be even, not {latent.rope_dim}")
    intermediate_size = raw.size("moe_intermediate_size")
    mixture = read_mixture(
        raw,
        "n_routed_experts",
        "num_local_experts",
        "num_experts",
        intermediate_size=intermediate_size,
        shared_size=raw.count("n_shared_experts") * intermediate_size,
        dense_layers=frozenset(range(min(raw.count("first_k_dense_replace"), raw.size("num_hidden_layers")))),
        has_shared_gate=False,
        is_exact_router=True,
        routed_scale=raw.number("routed_scaling_factor", 1.0),
        **experts,
    )
    num_groups, usable = mixture.num_groups, mixture.num_experts // mixture.num_groups * mixture.top_groups
    if mixture.num_experts % num_groups or mixture.top_groups > num_groups or mixture.top_k > usable:
        raise raw.refusal(
            f"num_experts_per_tok {mixture.top_k} of {mixture.num_experts} experts can't be chosen from topk_group {mixture.top_groups} of "
            f"n_group {num_groups} groups"
        )
    bias = raw.flag("attention_bias")
    rotated = raw.with_values(head_dim=latent.rope_dim)
    config = read_decoder_config(
        rotated,
        family,
        qkv_bias=bias,
        o_bias=bias,
        num_kv_heads=1,
        head_dim=latent.page_dim,
        attention_scale=latent.q_dim**-0.5 * _yarn_scale(rotated),
        mixture=mixture,
        latent=latent,
        num_draft_layers=raw.count("num_nextn_predict_layers"),
    )
    return replace(config, rope=replace(config.rope, is_interleaved=raw.flag("rope_interleave", True)))


def deepseek_family(name: str, read_config: ConfigReader) -> Family:
    return Family(
        name,
        read_config,
        build_decoder,
        DEEPSEEK_NAMES,
        DEEPSEEK_GGUF_NAMES,
        DEEPSEEK_STREAM,
        gguf_values=_gguf_values,
        stacks=(*HF_STACKS, *GGUF_STACKS),
    )


def _gguf_values(own: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """See GgufValues. Newer files have the sizes of what the cache keeps as key_length and value_length, and the heads' own beside them."""
    found = {key: own[name] for key, name in _GGUF_KEYS.items() if name in own}
    key, value, rope = (
        own.get("attention.key_length_mla", own.get("attention.key_length")),
        own.get("attention.value_length_mla", own.get("attention.value_length")),
        own.get("rope.dimension_count"),
    )
    found |= {"qk_nope_head_dim": key - rope if isinstance(key, int) and isinstance(rope, int) else None, "v_head_dim": value}
    found.setdefault("norm_topk_prob", False)
    if "n_group" not in found:
        found["n_group"], found["topk_group"] = _GROUPS.get(own.get("expert_count", 0), (1, 1))
    if values.get("scoring_func") == "softmax" and found["n_group"] != 1:
        found["topk_method"] = "group_limited_greedy"
    num_drafts = own.get("nextn_predict_layers", 0)
    if isinstance(num_drafts, int) and isinstance(values.get("num_hidden_layers"), int):
        found["num_hidden_layers"] = values["num_hidden_layers"] - num_drafts  # which such a file counts among the layers
    return found


def _yarn_scale(raw: RawConfig) -> float:
    """Stretched contexts have their scores multiplied by the square of a number that grows with the factor (``mscale_all_dim``)."""
    rope = read_rope(raw, raw.size("head_dim"), raw.size("max_position_embeddings"))
    own = RawConfig(raw.get("rope_parameters") or raw.get("rope_scaling") or {}, raw.origin)
    if rope.type == "default" or rope.factor <= 1:
        return 1.0
    return float((0.1 * own.number("mscale_all_dim", 0.0) * math.log(rope.factor) + 1.0) ** 2)
