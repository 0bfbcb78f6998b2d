"""Tiny models with random weights, one of each architecture, written as a Hub directory would be (without a tokenizer)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headway.server.source.files import ModelFiles

# GQA (4 heads, 2 key-value heads), sizes that 2 ranks divide, a vocabulary that they don't.
BASE: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_implementation": "eager",
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}
# As of texts longer than 16 tokens; tests/models/test_rope.py has the others.
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.5, 2.0, 2.5],
    "long_factor": [1.0, 2.0, 3.0, 5.0, 8.0, 13.0],
    "original_max_position_embeddings": 16,
    "partial_rotary_factor": 0.75,
}
GEMMA3_ROPES = {
    "full_attention": {"rope_type": "linear", "rope_theta": 100000.0, "factor": 4.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
}

QWEN_EXPERTS = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 32}
GPT_OSS = {
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "head_dim": 16,
    "sliding_window": 9,
    "rope_parameters": YARN_ROPE | {"truncate": False},
}

DEEPSEEK = {
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "n_shared_experts": 2,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 1.5,
}
DEEPSEEK_ROPE = YARN_ROPE | {"mscale": 1.0, "mscale_all_dim": 0.7}

SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
# name -> (transformers' config class, what differs from BASE)
TINY_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama-tied": ("LlamaConfig", {"tie_word_embeddings": True}),
    "llama-biased": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "llama-llama3": ("LlamaConfig", {"rope_parameters": LLAMA3_ROPE, "head_dim": 32}),
    "llama-yarn": ("LlamaConfig", {"rope_parameters": YARN_ROPE}),
    "llama-linear": ("LlamaConfig", {"rope_parameters": LINEAR_ROPE}),
    "llama-three": ("LlamaConfig", {"num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 72}),
    "mistral": ("MistralConfig", {"sliding_window": 7}),
    "mistral-full": ("MistralConfig", {"sliding_window": None}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen2-window": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}),
    "qwen3": ("Qwen3Config", {"head_dim": 24}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 5, "sliding_window": 9}),
    "qwen2-moe": ("Qwen2MoeConfig", QWEN_EXPERTS | {"shared_expert_intermediate_size": 48, "mlp_only_layers": [1]}),
    "qwen3-moe": ("Qwen3MoeConfig", QWEN_EXPERTS | {"head_dim": 24, "norm_topk_prob": True, "decoder_sparse_step": 2}),
    "qwen3-moe-window": ("Qwen3MoeConfig", QWEN_EXPERTS | {"head_dim": 24, "use_sliding_window": True, "sliding_window": 9}),
    "gpt-oss": ("GptOssConfig", GPT_OSS),
    "deepseek-v2": ("DeepseekV2Config", DEEPSEEK | {"topk_method": "group_limited_greedy", "rope_parameters": DEEPSEEK_ROPE}),
    "deepseek-v2-lite": ("DeepseekV2Config", DEEPSEEK | {"q_lora_rank": None, "topk_method": "greedy", "routed_scaling_factor": 1.0}),
    "deepseek-v3": ("DeepseekV3Config", DEEPSEEK | {"rope_parameters": DEEPSEEK_ROPE}),
    "gemma": ("GemmaConfig", {"head_dim": 24, "tie_word_embeddings": True}),
    "gemma2": (
        "Gemma2Config",
        {"head_dim": 24, "sliding_window": 9, "query_pre_attn_scalar": 40, "attn_logit_softcapping": 5.0, "tie_word_embeddings": True},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {"head_dim": 24, "sliding_window": 9, "query_pre_attn_scalar": 40, "rope_parameters": GEMMA3_ROPES, "layer_types": SLIDING},
    ),
    "phi3": ("Phi3Config", {"sliding_window": 11, "pad_token_id": 0}),
    "phi4-mini": (
        "Phi3Config",
        {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 16, "pad_token_id": 0, "tie_word_embeddings": True},
    ),
    "granite": (
        "GraniteConfig",
        {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.4, "attention_multiplier": 0.2, "mlp_bias": True},
    ),
    "olmo2": ("Olmo2Config", {"pad_token_id": 0}),
    "cohere": ("CohereConfig", {"logit_scale": 0.4, "pad_token_id": 0, "tie_word_embeddings": True}),
    "cohere-plus": ("CohereConfig", {"use_qk_norm": True, "logit_scale": 0.4, "pad_token_id": 0}),
    "cohere2": ("Cohere2Config", {"sliding_window": 9, "logit_scale": 0.4, "pad_token_id": 0, "layer_types": SLIDING}),
    "gpt2": ("GPT2Config", {"n_inner": 96, "tie_word_embeddings": True}),
    "opt": ("OPTConfig", {"ffn_dim": 96, "pad_token_id": 0, "tie_word_embeddings": True}),
    "starcoder2": ("Starcoder2Config", {"sliding_window": 9, "tie_word_embeddings": True}),
    "smollm3": ("SmolLM3Config", {"no_rope_layers": [1, 0, 1], "pad_token_id": 0}),
}


def make_tiny_model(name: str, directory: Path, *, seed: int = 0, max_shard_size: str = "1GB", **changes: Any) -> ModelFiles:
    """Writes the model ``name`` of TINY_MODELS, with ``changes`` to its config, into ``directory`` as fp32 safetensors.

    All weights are random, biases and norms too, and large enough that attention is far from uniform and logits differ.
    A small ``max_shard_size`` ("50KB") gives several files and an index.
    """
    import torch
    import transformers

    config_class, own = TINY_MODELS[name]
    config = getattr(transformers, config_class)(**BASE | own | changes)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            values = torch.randn(parameter.shape, generator=generator)
            is_norm = bool((parameter == 1).all())
            parameter.copy_(1 + 0.1 * values if is_norm else 0.15 * values)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(0.15 * torch.randn(buffer.shape, generator=generator))
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    return ModelFiles("safetensors", directory, None, f"tiny-{name}")


def transformers_model(files: ModelFiles) -> Any:
    """The same model as transformers runs it, in fp32 with eager attention."""
    import torch
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(files.path, dtype=torch.float32, attn_implementation="eager").eval()
