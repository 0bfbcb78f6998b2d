"""GGUF files made from tiny models, with what llama.cpp's converter does to names, rotary order and metadata."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file
from transformers import AutoConfig

from headway.server.source.files import ModelFiles

# Norms whose weights are written with 1 added, matrices that are written transposed, and heads that are written in pairs.
_WITH_ONE_ADDED = ("gemma", "gemma2", "gemma3")
_TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
_IN_PAIRS = ("llama", "granite", "smollm3")
_WITH_LAYER_NORM = ("cohere", "cohere2", "gpt2", "starcoder2")
_WITH_WINDOW = ("gemma2", "gemma3_text", "cohere2", "phi3", "starcoder2")
# GGUF key -> config.json key, of those that have it
_KEYS = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "attention.scale": "attention_multiplier",
    "logit_scale": "logits_scaling",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
_EXPERT = re.compile(r"(model\.layers\.\d+)\..*experts\.(\d+)\.(\w+)\.weight")
_EXPERT_PARTS = {"gate_proj": "gate", "w1": "gate", "up_proj": "up", "w3": "up", "down_proj": "down", "w2": "down"}


# Where a block of a K-quant has its scale of scales, and of offsets, and how large they are for weights of about 0.1.
_SCALES_AT = {"Q4_K": {0: 2e-4, 2: 1.5e-3}, "Q5_K": {0: 1e-4, 2: 1.5e-3}, "Q6_K": {208: 1e-4}}


def convert_to_gguf(
    files: ModelFiles,
    path: Path,
    architecture: str,
    *,
    type_name: str = "F32",
    other_types: dict[str, str] | None = None,
    metadata: dict[str, Any] | None = None,
    has_whole_latents: bool = False,
    tensors_a_part: int = 0,
    is_fused: bool = False,
    squeezes: bool = False,
) -> ModelFiles:
    """Writes ``files`` (one safetensors file) as a GGUF with matrices in ``type_name``, or where their names end with a key of
    ``other_types`` in its value; of K-quants, which the package only reads, blocks are drawn. ``metadata`` adds keys or replaces them, a
    key that is None is left out.

    ``has_whole_latents``: deepseek2 as it was written until April 2025. ``is_fused``: experts' gates and what they let through are one
    stack. ``squeezes``: matrices of one row are vectors. ``tensors_a_part``: of several files, of which the first is named.
    """
    config = AutoConfig.from_pretrained(files.path)
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=tensors_a_part)
    latent = {} if architecture != "deepseek2" else _latent_metadata(config, is_old=has_whole_latents)
    for key, value in (_metadata(config) | latent | (metadata or {})).items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, bool: writer.add_bool}
        if value is not None:
            add[type(value)](f"{architecture}.{key}", value)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b" * 300, "ü"])
    _add_rope_factors(writer, _rope(config), _head_dim(config))
    names = _names(architecture, config.num_hidden_layers)
    tensors = _stacked(load_file(files.path / "model.safetensors"))
    if is_fused:
        for gate in [name for name in tensors if name.endswith("ffn_gate_exps.weight")]:
            both = [tensors.pop(gate), tensors.pop(gate.replace("_gate_", "_up_"))]
            tensors[gate.replace("_gate_", "_gate_up_")] = np.concatenate(both, axis=1)
    if architecture == "deepseek2" and not has_whole_latents:
        tensors = _split_latents(tensors, config)
    for name, values in tensors.items():
        if architecture in _IN_PAIRS and ("q_proj" in name or "k_proj" in name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            halves = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
            values = halves.swapaxes(1, 2).reshape(values.shape)
        if architecture in _WITH_ONE_ADDED and name.endswith("norm.weight"):
            values = values + 1
        values = values.squeeze() if squeezes else values
        if architecture == "gpt2" and name.endswith(_TRANSPOSED):
            values = values.T
        own_type = next((other for end, other in (other_types or {}).items() if names(name).endswith(end)), type_name)
        fits = values.ndim > 1 and values.shape[-1] % gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[own_type]][0] == 0
        kind = gguf.GGMLQuantizationType[own_type if fits and "ffn_gate_inp" not in names(name) else "F32"]
        quantize = _drawn if kind.name in _SCALES_AT else gguf.quants.quantize
        writer.add_tensor(names(name), quantize(np.ascontiguousarray(values), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if tensors_a_part:
        path = min(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))
    return ModelFiles("gguf", None, path, path.name)


def _drawn(values: Any, kind: gguf.GGMLQuantizationType) -> Any:
    """Blocks of a K-quant for a matrix of the shape of ``values``."""
    size, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    number = np.random.default_rng(values.size)
    blocks = number.integers(0, 256, (*values.shape[:-1], values.shape[-1] // size, num_bytes), dtype=np.uint8)
    for start, scale in _SCALES_AT[kind.name].items():
        drawn = (scale * number.uniform(0.5, 1.5, (*blocks.shape[:-1], 1))).astype(np.float16)
        blocks[..., start : start + 2] = drawn.view(np.uint8)
    return blocks.reshape(*values.shape[:-1], -1)


def _stacked(tensors: dict[str, Any]) -> dict[str, Any]:
    """With the experts of each layer in one tensor."""
    found: dict[str, Any] = {}
    stacks: dict[str, dict[int, Any]] = {}
    for name, values in tensors.items():
        if match := _EXPERT.fullmatch(name):
            stacks.setdefault(f"{match[1]}.ffn_{_EXPERT_PARTS[match[3]]}_exps.weight", {})[int(match[2])] = values
        elif ".experts." in name:  # gpt-oss: stacks already
            found |= _gpt_oss_stacks(name, values)
        else:
            found[name] = values
    return found | {name: np.stack([own[e] for e in sorted(own)]) for name, own in stacks.items()}


def _gpt_oss_stacks(name: str, values: Any) -> dict[str, Any]:
    prefix, _, rest = name.partition(".mlp.experts.")
    kind = "bias" if rest.endswith("_bias") else "weight"
    values = values if kind == "bias" else values.swapaxes(1, 2)
    if rest.startswith("down"):
        return {f"{prefix}.ffn_down_exps.{kind}": values}
    return {f"{prefix}.ffn_{part}_exps.{kind}": values[:, start::2] for start, part in enumerate(("gate", "up"))}


def _split_latents(tensors: dict[str, Any], config: Any) -> dict[str, Any]:
    """With what makes keys, transposed, and what makes values of latents as two tensors, a matrix for each head."""
    found: dict[str, Any] = {}
    for name, values in tensors.items():
        if not name.endswith("kv_b_proj.weight"):
            found[name] = values
            continue
        heads = values.reshape(config.num_attention_heads, -1, values.shape[1])
        keys, rest = np.split(heads, [config.qk_nope_head_dim], axis=1)
        found |= {name.replace("kv_b", "k_b"): keys.swapaxes(1, 2), name.replace("kv_b", "v_b"): rest}
    return found


def _latent_metadata(config: Any, *, is_old: bool) -> dict[str, Any]:
    q_dim, rope = config.qk_nope_head_dim + config.qk_rope_head_dim, _rope(config)
    is_sigmoid = config.model_type == "deepseek_v3"
    keys: dict[str, Any] = {
        "rope.dimension_count": config.qk_rope_head_dim,
        "attention.q_lora_rank": config.q_lora_rank,
        "attention.kv_lora_rank": config.kv_lora_rank,
        "leading_dense_block_count": config.first_k_dense_replace,
        "expert_count": config.n_routed_experts,
        "expert_shared_count": config.n_shared_experts,
        "expert_weights_scale": config.routed_scaling_factor,
        "expert_weights_norm": True if is_sigmoid else None,
        "expert_gating_func": 2 if is_sigmoid else None,
        "expert_group_count": config.n_group if is_sigmoid or config.topk_method != "greedy" else 1,
        "expert_group_used_count": config.topk_group,
    }
    if rope.get("rope_type") == "yarn":
        keys |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": rope["factor"],
            "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
            "rope.scaling.yarn_log_multiplier": 0.1 * rope["mscale_all_dim"],
        }
    if is_old:
        return keys | {"attention.key_length": q_dim, "attention.value_length": config.v_head_dim}
    return keys | {
        "attention.head_count_kv": 1,
        "attention.key_length": config.kv_lora_rank + config.qk_rope_head_dim,
        "attention.value_length": config.kv_lora_rank,
        "attention.key_length_mla": q_dim,
        "attention.value_length_mla": config.v_head_dim,
    }


def _metadata(config: Any) -> dict[str, Any]:
    heads, rope = config.num_attention_heads, _rope(config)
    has_layer_norm = config.model_type in _WITH_LAYER_NORM
    eps_keys = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon") if has_layer_norm else ("rms_norm_eps",)
    keys: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": _first(config, "intermediate_size", "n_inner"),
        "attention.head_count": heads,
        "attention.head_count_kv": heads if config.model_type == "gpt2" else config.num_key_value_heads,
        f"attention.layer_norm_{'' if has_layer_norm else 'rms_'}epsilon": _first(config, *eps_keys),
        "attention.key_length": _head_dim(config),
        "attention.value_length": _head_dim(config),
    }
    if rope:
        keys["rope.freq_base"] = float(rope["rope_theta"])
        keys["rope.dimension_count"] = int(_head_dim(config) * rope.get("partial_rotary_factor", 1.0))
    own = {key: getattr(config, name, None) for key, name in _KEYS.items()}
    if own["expert_used_count"] is not None:
        own["expert_count"] = _first(config, "num_local_experts", "num_experts", "n_routed_experts")
    if config.model_type in ("cohere", "cohere2"):
        own["logit_scale"] = config.logit_scale
    if config.model_type in _WITH_WINDOW:
        own["attention.sliding_window"] = config.sliding_window
    return keys | {key: value for key, value in own.items() if value is not None}


def _first(config: Any, *keys: str) -> Any:
    """The value of the first key that the config has."""
    return next(value for key in keys if (value := getattr(config, key, None)) is not None)


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _rope(config: Any) -> dict[str, Any]:
    """Of layers without a window, where layers differ."""
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    return rope.get("full_attention", rope)


def _names(architecture: str, num_layers: int) -> Callable[[str], str]:
    """The gguf package's own translation; what it lacks of an architecture is named as Llama's."""
    kind = next((key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture), gguf.MODEL_ARCH.LLAMA)
    tables = [gguf.get_tensor_name_map(it, num_layers) for it in (kind, gguf.MODEL_ARCH.LLAMA)]

    def translated(name: str) -> str:
        if "_exps." in name:  # of _stacked
            return name.replace("model.layers.", "blk.")
        name = f"{name}.weight" if name.endswith(".sinks") else name.replace("_correction_bias", "_correction.bias")
        found = next(filter(None, (table.get_name(name, try_suffixes=(".weight", ".bias")) for table in tables)), None)
        assert found is not None, name
        return str(found)

    return translated


def _add_rope_factors(writer: Any, rope: dict[str, Any], head_dim: int) -> None:
    """Llama 3's scaling travels as a tensor of divisors, long rope's factors as two; not as metadata."""
    if rope.get("rope_type") == "longrope":
        for name in ("long", "short"):
            writer.add_tensor(f"rope_factors_{name}.weight", np.array(rope[f"{name}_factor"], dtype=np.float32))
    if rope.get("rope_type") != "llama3":
        return
    frequencies = rope["rope_theta"] ** -(np.arange(0, head_dim, 2) / head_dim)
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    keep = np.clip((turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"]), 0, 1)
    writer.add_tensor("rope_freqs.weight", (1 / ((1 - keep) / rope["factor"] + keep)).astype(np.float32))
