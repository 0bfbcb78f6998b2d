"""GGUF files made from tiny models, with what llama.cpp's converter does to names, rotary order and metadata."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

from headway.server.source.files import ModelFiles

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.gate.": "ffn_gate_inp.",
    "mlp.router": "ffn_gate_inp",
    "self_attn.sinks": "attn_sinks.weight",
}
_EXPERT = re.compile(r"(model\.layers\.\d+)\..*experts\.(\d+)\.(\w+)\.weight")
_EXPERT_PARTS = {"gate_proj": "gate", "w1": "gate", "up_proj": "up", "w3": "up", "down_proj": "down", "w2": "down"}


def convert_to_gguf(
    files: ModelFiles, path: Path, architecture: str, *, type_name: str = "F32", metadata: dict[str, Any] | None = None
) -> ModelFiles:
    """Writes ``files`` (one safetensors file) as a GGUF with matrices in ``type_name``; ``metadata`` adds keys or replaces them."""
    config = json.loads((files.path / "config.json").read_text())
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer = gguf.GGUFWriter(path, architecture)
    keys: dict[str, Any] = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.freq_base": config["rope_parameters"]["rope_theta"],
        "rope.dimension_count": head_dim,
    }
    if num_experts := config.get("num_local_experts") or config.get("num_experts"):
        keys |= {"expert_count": num_experts, "expert_used_count": config["num_experts_per_tok"]}
        keys |= {"expert_feed_forward_length": config["moe_intermediate_size"]} if "moe_intermediate_size" in config else {}
        shared = config.get("shared_expert_intermediate_size")
        keys |= {"expert_shared_feed_forward_length": shared} if shared else {}
    for key, value in (keys | (metadata or {})).items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(f"{architecture}.{key}", value)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b" * 300, "ü"])
    _add_rope_factors(writer, config, head_dim)
    for name, values in _stacked(load_file(files.path / "model.safetensors")).items():
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            halves = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
            values = halves.swapaxes(1, 2).reshape(values.shape)
        kind = gguf.GGMLQuantizationType[type_name if values.ndim > 1 else "F32"]
        writer.add_tensor(_name(name, architecture), gguf.quants.quantize(np.ascontiguousarray(values), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return ModelFiles("gguf", None, path, path.name)


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


def _name(name: str, architecture: str) -> str:
    if architecture == "gpt-oss":
        name = name.replace("post_attention_layernorm", "post_attention_norm")
    name = name.replace("model.layers.", "blk.")
    for ours, theirs in _NAMES.items():
        name = name.replace(ours, theirs)
    return name


def _add_rope_factors(writer: Any, config: dict[str, Any], head_dim: int) -> None:
    """Llama 3's scaling travels as a tensor of divisors, not as metadata."""
    rope = config["rope_parameters"]
    if rope["rope_type"] != "llama3":
        return
    frequencies = rope["rope_theta"] ** -(np.arange(0, head_dim, 2) / head_dim)
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    keep = np.clip((turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"]), 0, 1)
    writer.add_tensor("rope_freqs.weight", (1 / ((1 - keep) / rope["factor"] + keep)).astype(np.float32))
