"""Tiny EAGLE heads with random weights, written as their authors publish them, and a model whose next token a head can know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from headway.server.source.files import ModelFiles

_WEIGHTS = "model.safetensors"
_COPIED = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    *("rms_norm_eps", "max_position_embeddings", "hidden_act"),
)


def make_head(method: str, directory: Path, target: ModelFiles, *, seed: int = 0, config: dict[str, Any] | None = None) -> ModelFiles:
    """A head of ``method`` for ``target``; EAGLE-3's guesses every third token. ``config`` is laid over its config.json."""
    values = _config(method, target) | (config or {})
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float = 0.15) -> Tensor:
        return scale * torch.randn(*shape, generator=generator)

    width, inner = values["hidden_size"], values["intermediate_size"]
    head_dim = width // values["num_attention_heads"]
    q, kv = width, values["num_key_value_heads"] * head_dim
    is_third = method == "eagle3"
    layer = "midlayer" if is_third else "layers.0"
    attended = 2 * width if is_third else width
    weights = {
        "fc.weight": random(width, (3 if is_third else 2) * width),
        f"{layer}.self_attn.q_proj.weight": random(q, attended),
        f"{layer}.self_attn.k_proj.weight": random(kv, attended),
        f"{layer}.self_attn.v_proj.weight": random(kv, attended),
        f"{layer}.self_attn.o_proj.weight": random(width, q),
        f"{layer}.mlp.gate_proj.weight": random(inner, width),
        f"{layer}.mlp.up_proj.weight": random(inner, width),
        f"{layer}.mlp.down_proj.weight": random(width, inner),
        f"{layer}.post_attention_layernorm.weight": 1 + random(width),
    }
    if is_third:
        count = values["draft_vocab_size"]
        ids = torch.arange(count) * 3
        weights |= {f"{layer}.{name}.weight": 1 + random(width) for name in ("hidden_norm", "input_layernorm")}
        weights |= {"norm.weight": 1 + random(width), "lm_head.weight": random(count, width), "d2t": ids - torch.arange(count)}
        if values.get("norm_before_fc"):
            weights["input_norm.weight"] = 1 + random(3 * width)
        if values.get("fc_norm"):
            weights |= {f"fc_norm.{at}.weight": 1 + random(width) for at in range(3)}
        weights["t2d"] = torch.zeros(values["vocab_size"], dtype=torch.bool).index_fill_(0, ids, True)
    else:
        weights["fc.bias"] = random(width)
    return write_head(directory, values, weights)


def write_head(directory: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> ModelFiles:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    save_file(weights, directory / _WEIGHTS)
    return ModelFiles("safetensors", directory, None, f"head-{directory.name}")


def change_head(head: ModelFiles, directory: Path, *, without: str = "", **weights: Tensor) -> ModelFiles:
    """A copy with other ``weights``, under their names with "__" for ".", and ``without`` one."""
    changed = head_weights(head) | {name.replace("__", "."): value for name, value in weights.items()}
    return write_head(directory, head_config(head), {name: value for name, value in changed.items() if name != without})


def head_weights(head: ModelFiles) -> dict[str, Tensor]:
    return load_file(head.path / _WEIGHTS)


def head_config(head: ModelFiles) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((head.path / "config.json").read_text())
    return values


def quieten(model: ModelFiles, scale: float) -> None:
    """Scales what the layers of a model add to the embedding of a token: with little its next token follows from that alone."""
    weights = load_file(model.path / _WEIGHTS)
    for name, value in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = value * scale
        elif name == "model.norm.weight":
            weights[name] = torch.ones_like(value)
    save_file(weights, model.path / _WEIGHTS, metadata={"format": "pt"})


def make_knowing_head(directory: Path, target: ModelFiles, *, noise: float = 0.0, seed: int = 0) -> ModelFiles:
    """An EAGLE head that takes the embedding of a token for the hidden state behind it, as is right for a model that is quiet; but for
    ``noise`` times what a random head says."""
    head = make_head("eagle", directory, target, seed=seed)
    weights = head_weights(head)
    width = head_config(head)["hidden_size"]
    changed = {name: noise * value for name, value in weights.items() if name.endswith(("o_proj.weight", "down_proj.weight", "fc.bias"))}
    changed["fc.weight"] = torch.eye(width, 2 * width) + noise * weights["fc.weight"]
    return write_head(directory, head_config(head), weights | changed)


def _config(method: str, target: ModelFiles) -> dict[str, Any]:
    model = json.loads((target.path / "config.json").read_text())
    own: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    if method == "eagle3":
        own = {
            "architectures": ["LlamaForCausalLMEagle3"],
            "model_type": "llama",
            "draft_vocab_size": model["vocab_size"] // 3,
            "eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 1, 2], "use_aux_hidden_state": True},
        }
    return {key: model[key] for key in _COPIED} | own | {"num_hidden_layers": 1, "torch_dtype": "float32"}
