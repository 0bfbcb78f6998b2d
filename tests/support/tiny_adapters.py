"""LoRA adapters with random weights in PEFT's format, for a model of any family."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

TABLES = ("embed_tokens", "lm_head")
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
EVERYTHING = (*ALL, *TABLES)


def shapes_of(config: Any) -> dict[str, tuple[int, int]]:
    """[N, K] of each linear of a layer, of a DecoderConfig."""
    hidden, inner = config.hidden_size, config.intermediate_size
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    if config.latent is not None:
        return _latent_shapes(config)
    return {
        "q_proj": (q, hidden),
        "k_proj": (kv, hidden),
        "v_proj": (kv, hidden),
        "o_proj": (hidden, q),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }


def _latent_shapes(config: Any) -> dict[str, tuple[int, int]]:
    """Of attention with a latent for queries too."""
    hidden, heads, latent = config.hidden_size, config.num_heads, config.latent
    return {
        "q_a_proj": (latent.q_rank, hidden),
        "q_b_proj": (heads * latent.q_dim, latent.q_rank),
        "kv_a_proj_with_mqa": (latent.page_dim, hidden),
        "kv_b_proj": (heads * (latent.nope_dim + latent.v_dim), latent.kv_rank),
        "o_proj": (hidden, heads * latent.v_dim),
    }


def module_of(layer: int, name: str) -> str:
    return f"model.layers.{layer}.{'mlp' if name in ('gate_proj', 'up_proj', 'down_proj') else 'self_attn'}.{name}"


def make_adapter(
    directory: Path,
    config: Any,
    *,
    seed: int = 0,
    rank: int = 4,
    alpha: float = 8,
    targets: Iterable[str] = ALL,
    spread: float = 0.15,
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> Path:
    """Writes an adapter of the DecoderConfig's linears and TABLES named ``targets``; ``settings`` go into adapter_config.json."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config.num_layers):
        for name in targets:
            if name in TABLES:
                continue
            num_rows, num_columns = shapes_of(config)[name]
            key = f"base_model.model.{module_of(layer, name)}"
            tensors[f"{key}.lora_A.weight"] = (spread * torch.randn(rank, num_columns, generator=generator)).to(dtype)
            tensors[f"{key}.lora_B.weight"] = (spread * torch.randn(num_rows, rank, generator=generator)).to(dtype)
    for name in set(TABLES).intersection(targets):
        num_rows, num_columns = (config.hidden_size, config.vocab_size)[:: 1 if name == "embed_tokens" else -1]
        key = "base_model.model.model.embed_tokens.lora_embedding_" if name == "embed_tokens" else "base_model.model.lm_head.lora_"
        end = "" if name == "embed_tokens" else ".weight"
        tensors[f"{key}A{end}"] = (spread * torch.randn(rank, num_columns, generator=generator)).to(dtype)
        tensors[f"{key}B{end}"] = (spread * torch.randn(num_rows, rank, generator=generator)).to(dtype)
    values = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": list(targets), "bias": "none", **settings}
    write_adapter(directory, values, tensors)
    return directory


def make_adapter_of_all_linears(directory: Path, model: Any, *, rank: int = 4, **settings: Any) -> Path:
    """Of each linear of the layers of a model of transformers, by its own name, biases aside."""
    from transformers.pytorch_utils import Conv1D

    generator, tensors, targets = torch.Generator().manual_seed(0), {}, set()
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear | Conv1D) or name == "lm_head":
            continue
        num_columns, num_rows = module.weight.shape if isinstance(module, Conv1D) else module.weight.shape[::-1]
        targets.add(name.rpartition(".")[2])
        tensors[f"base_model.model.{name}.lora_A.weight"] = 0.15 * torch.randn(rank, num_columns, generator=generator)
        tensors[f"base_model.model.{name}.lora_B.weight"] = 0.15 * torch.randn(num_rows, rank, generator=generator)
    values = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": sorted(targets), "bias": "none", **settings}
    write_adapter(directory, values, tensors)
    return directory


def write_adapter(directory: Path, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps(values))
    save_file(tensors, directory / "adapter_model.safetensors")


def make_peft_adapter(
    directory: Path,
    model: Any,
    targets: Iterable[str],
    *,
    seed: int = 0,
    spread: float = 0.15,
    save_copies: bool = True,
    **settings: Any,
) -> Path:
    """Of the modules named ``targets`` of a model of transformers, made and saved by PEFT itself. ``save_copies``: of the tables that it
    changes, as PEFT does unless it is told otherwise."""
    import peft

    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": list(targets), "init_lora_weights": False, **settings})
    adapted = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(adapted.named_parameters()):
            if ".lora_" in name:
                parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(str(directory), save_embedding_layers="auto" if save_copies else False)
    return directory
