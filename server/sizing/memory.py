"""How many bytes a model needs beside its weights: of the engine on a CPU, and of an estimate of one that runs elsewhere."""

from __future__ import annotations

from headway.server.config.plan import Plan
from headway.server.distributed.places import WHOLE, PipelineStage
from headway.server.models.base import DecoderConfig, KVSpec, ModelConfig
from headway.server.models.modernbert_config import ModernBertConfig
from headway.server.sizing.dtypes import itemsize


def kv_spec(config: ModelConfig, stage: PipelineStage = WHOLE) -> KVSpec:
    """Of a stage's layers on one device; an encoder keeps no keys and values."""
    if not isinstance(config, DecoderConfig):
        return KVSpec(0, 0, 0)
    return KVSpec(len(stage.layers(config.num_layers)), config.num_kv_heads, config.head_dim, config.latent is not None)


def bytes_per_block(spec: KVSpec, plan: Plan) -> int:
    """On one rank: of all layers, keys and values; in int8 with the scales behind them, as headway/kernels/kv_cache.py draws it."""
    if plan.kv_cache_dtype == "int8":
        rows = plan.page_size * spec.num_kv_heads
        return 2 * spec.num_layers * (-(-rows * spec.head_dim // 4) * 4 + 4 * rows)
    return plan.page_size * spec.numbers_per_token * itemsize(plan.kv_cache_dtype)


def pooled_num_blocks(plan: Plan, room: int) -> int:
    """Of a model that pools: its keys and values live for one step, so no more blocks than a step can use, of the ``room`` there is."""
    longest = max(plan.max_num_batched_tokens, plan.max_model_len)
    return min(room, -(-longest // plan.block_size) + plan.max_num_seqs)


def logits_bytes(plan: Plan, num_outputs: int) -> int:
    """``num_outputs`` of each request and each draft in a step: fp32, with the copies of log-softmax and sorting."""
    return plan.max_num_rows * num_outputs * 4 * 4


def activation_bytes(config: ModelConfig, plan: Plan, size: int) -> int:
    """Peak of the largest step's hidden states, of ``size`` bytes a number: the stream with its branch, before and after a norm, and what
    the feed-forward layer makes of it."""
    return plan.max_num_batched_tokens * (4 * config.hidden_size + max(_feed_forward_size(config), _latent_size(config))) * size


def _latent_size(config: ModelConfig) -> int:
    """Numbers that a token needs in latent attention, whose heads are as wide as a page: queries, these rotated, and what they find."""
    is_latent = isinstance(config, DecoderConfig) and config.latent is not None
    return 3 * config.num_heads * config.head_dim if is_latent else 0


def _feed_forward_size(config: ModelConfig) -> int:
    """Numbers that a token needs in it: gate, up and their product; in a mixture these of each of its experts, and their results."""
    mixture = config.mixture if isinstance(config, DecoderConfig) else None
    if mixture is None:
        return 3 * config.intermediate_size
    dense = 3 * config.intermediate_size if mixture.dense_layers else 0
    routed = max(3 * mixture.intermediate_size, mixture.top_k * (mixture.intermediate_size + config.hidden_size))
    return max(dense, routed, config.hidden_size + 3 * mixture.shared_size)


def cpu_step_bytes(config: ModelConfig, plan: Plan, num_outputs: int) -> int:
    """Peak of the largest step, its logits among it, that the engine plans with on a CPU: in fp32, whatever the plan's dtype."""
    return activation_bytes(config, plan, itemsize("float32")) + logits_bytes(plan, num_outputs)


def rope_table_bytes(config: ModelConfig, plan: Plan) -> int:
    """Cosines and sines in fp32 for each position that may be asked for."""
    if isinstance(config, DecoderConfig):
        return plan.max_model_len * sum(rope.rotary_dim for rope in config.distinct_ropes) * 4
    return len(config.thetas) * plan.max_model_len * config.head_dim * 4 if isinstance(config, ModernBertConfig) else 0
