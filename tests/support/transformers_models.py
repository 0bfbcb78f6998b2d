"""Tiny models of classes that run through transformers, mixtures among them, and code that comes with a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine_driver import make_engine, request, run

from headway.server.source.files import ModelFiles

_SIZES: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_WINDOW = {"sliding_window": 7}
_ALL_HEADS = {"num_key_value_heads": 4}
# model_type of transformers -> what differs; each has something that no other here has.
THROUGH_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "apertus": {},  # an activation with numbers of its own in the checkpoint
    "arcee": {"tie_word_embeddings": True},  # a feed-forward layer without a gate
    "codegen": _ALL_HEADS | {"rotary_dim": 8},  # queries, keys and values in one tensor, in an order of its own
    "cwm": _WINDOW,
    "exaone4": _WINDOW,  # no rotation in layers without a window
    "glm4": {},  # neighbours rotated as pairs, a fused gate
    "gpt_neox": _ALL_HEADS,  # fused queries, keys and values, and older names in checkpoints
    "gptj": _ALL_HEADS | {"rotary_dim": 8},  # a bias of the head, other keys in config.json
    "helium": {"head_dim": 16},
    "nanochat": {},  # a cap of the logits
    "olmo3": _WINDOW,  # norms of all heads together
    "phi": {},
    "seed_oss": {"head_dim": 24},
    "vaultgemma": _WINDOW | {"head_dim": 24, "attn_logit_softcapping": 5.0, "tie_word_embeddings": True},
}
_SMALL = {"moe_intermediate_size": 48, "num_experts_per_tok": 3}
_IN_GROUPS = {"n_routed_experts": 6, "n_group": 2, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1}
_LOCAL = {"num_local_experts": 6, "num_experts_per_tok": 3}
# The same of mixtures of experts, and of models with sinks.
MIXTURES_THROUGH_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "aria_text": {"moe_num_experts": 6, "moe_topk": 3},  # experts with columns where others have rows
    "beam": _SMALL | _WINDOW | {"num_experts": 6, "n_group": 2, "topk_group": 1, "head_dim": 16},  # a bias of each head
    "ernie4_5_moe": {"moe_num_experts": 6, "moe_k": 3, "moe_intermediate_size": 48, "moe_num_shared_experts": 2},
    "flint": _SMALL | _WINDOW | {"num_experts": 6, "shared_expert_intermediate_size": 32, "head_dim": 16, "mlp_only_layers": [0]},  # sinks
    "glm4_moe": _SMALL | _IN_GROUPS,  # a router in groups, with a bias in fp32
    "gpt_oss": _LOCAL | _WINDOW | {"head_dim": 16},  # sinks, and experts with a gate of their own
    "granite_swa": _WINDOW,  # sinks, and no experts
    "granitemoe_swa": _LOCAL | _WINDOW | {"shared_intermediate_size": 32},  # older names in checkpoints, all experts in one tensor
    "hunyuan_v1_moe": {"num_experts": 6, "moe_topk": 3, "head_dim": 16},
    "olmoe": {"num_experts": 6, "num_experts_per_tok": 3},
    "phimoe": _LOCAL | {"num_experts_per_tok": 2},
}
_CODE = """
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from .configuration_zebra import ZebraConfig

class ZebraForCausalLM(LlamaForCausalLM):
    config_class = ZebraConfig
"""
_CONFIG_CODE = """
from transformers import LlamaConfig

class ZebraConfig(LlamaConfig):
    model_type = "zebra"
"""


def make_model_for_transformers(model_type: str, directory: Path, *, seed: int = 0, **changes: Any) -> ModelFiles:
    """Of random weights, norms and biases too, as fp32 safetensors in ``directory``."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING[model_type](**_SIZES | (THROUGH_TRANSFORMERS | MIXTURES_THROUGH_TRANSFORMERS)[model_type] | changes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * values if bool((parameter == 1).all()) else 0.15 * values)
    model.save_pretrained(directory)
    return ModelFiles("safetensors", directory, None, f"tiny-{model_type}")


def bring_own_code(files: ModelFiles) -> ModelFiles:
    """Makes a tiny Llama one of a class that only code beside it has."""
    path = files.path / "config.json"
    names = {"AutoConfig": "configuration_zebra.ZebraConfig", "AutoModelForCausalLM": "modeling_zebra.ZebraForCausalLM"}
    changes = {"architectures": ["ZebraForCausalLM"], "model_type": "zebra", "auto_map": names}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (files.path / "modeling_zebra.py").write_text(_CODE)
    (files.path / "configuration_zebra.py").write_text(_CONFIG_CODE)
    return files


def answers_in_chunks(files: ModelFiles, prompts: list[list[int]], model_type: str) -> list[list[int]]:
    """64 greedy tokens for each of three prompts with the same 36 at the start, in chunks of 16: the second and third find the first's."""
    engine = make_engine(
        files,
        model={"max_model_len": 256},
        scheduler={"max_num_batched_tokens": 16, "max_num_seqs": 4},
        cache={"block_size": 4, "num_gpu_blocks_override": 128},
    )
    asked = [request(f"r{i}", prompt, max_tokens=64, ignore_eos=True) for i, prompt in enumerate(prompts)]
    outputs = run(engine, asked[:1]) | run(engine, asked[1:])
    assert [outputs[f"r{i}"].num_cached_tokens for i in range(3)] == [0, 36, 36]
    assert engine.info.architecture == f"{model_type} through transformers"
    return [outputs[f"r{i}"].token_ids for i in range(3)]
