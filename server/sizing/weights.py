"""How many bytes the weights of a model take as the engine keeps them, from its shape alone.

Names and shapes are those of the layers in models/, which a test holds them against.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from headway.server.config.lora import LoraConfig
from headway.server.config.plan import Plan
from headway.server.models.base import DecoderConfig, ModelConfig
from headway.server.models.modernbert_config import ModernBertConfig
from headway.server.sizing.dtypes import itemsize
from headway.server.sizing.model import ModelShape

_SHORT_NAMES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True, slots=True)
class LinearShape:
    """A matrix [sum of rows, columns]; each part of its rows is a checkpoint tensor of its own, to which adapters add."""

    rows: tuple[int, ...]
    columns: int
    takes_adapters: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        return sum(self.rows), self.columns


@dataclass(slots=True)
class WeightShapes:
    """By the model's own names: matrices that a method of quantisation packs, and what is kept as it is."""

    linears: dict[str, LinearShape] = field(default_factory=dict)
    others: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def linear(self, name: str, *rows: int, columns: int, bias: bool, takes_adapters: bool = True) -> None:
        self.linears[f"{name}.weight"] = LinearShape(rows, columns, takes_adapters)
        if bias:
            self.others[f"{name}.bias"] = (sum(rows),)

    def norm(self, name: str, size: int, *, bias: bool) -> None:
        self.others[f"{name}.weight"] = (size,)
        if bias:
            self.others[f"{name}.bias"] = (size,)


def weight_shapes(shape: ModelShape) -> WeightShapes:
    """Of the whole model on one device. A tied head has no weight of its own."""
    config = shape.config
    if isinstance(config, DecoderConfig):
        return _decoder(config, generates=shape.use == "generate")
    return _modernbert(config) if isinstance(config, ModernBertConfig) else _encoder(config)


def weight_bytes(shape: ModelShape, plan: Plan, *, on_cpu: bool) -> int:
    """As LoadedModel.weight_bytes has it."""
    shapes = weight_shapes(shape)
    config, size = shape.config, itemsize(plan.dtype)
    is_tied = shape.use == "generate" and config.tie_word_embeddings
    head = (config.vocab_size, config.hidden_size)
    others = sum(math.prod(other) for other in shapes.others.values()) * size
    matrices = [linear.shape for linear in shapes.linears.values()]
    if plan.quantization == "int8":
        # A tied head is packed for itself, since rounding takes the last norm in. A scale of fp32 for each row.
        matrices += [head] if is_tied else []
        return others + sum(rows * columns + 4 * rows for rows, columns in matrices)
    # On a CPU the head is packed into another layout than the table that it is tied to; fp16 is not packed.
    is_copied = is_tied and on_cpu and plan.dtype != "float16"
    return others + sum(math.prod(matrix) for matrix in [*matrices, *[head] * is_copied]) * size


def weight_format(plan: Plan) -> str:
    """As EngineInfo.weight_format has it."""
    return "int8 (8-bit activations)" if plan.quantization == "int8" else _SHORT_NAMES[plan.dtype]


def adapter_bytes(shape: ModelShape, plan: Plan, lora: LoraConfig) -> int:
    """Room for adapters on every linear layer, which is taken at the start."""
    if not lora.enable_lora:
        return 0
    linears = [linear for linear in weight_shapes(shape).linears.values() if linear.takes_adapters]
    per_rank = sum(len(linear.rows) * linear.columns + sum(linear.rows) for linear in linears)
    return lora.max_loras * lora.max_lora_rank * per_rank * itemsize(plan.dtype)


def _decoder(config: DecoderConfig, *, generates: bool) -> WeightShapes:
    found, hidden = WeightShapes(), config.hidden_size
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    found.others["embed_tokens.weight"] = (config.vocab_size, hidden)
    for i in range(config.num_layers):
        layer = f"layers.{i}"
        found.norm(f"{layer}.input_norm", hidden, bias=False)
        found.linear(f"{layer}.qkv", q, kv, kv, columns=hidden, bias=config.qkv_bias)
        if config.qk_norm:
            found.norm(f"{layer}.attention.q_norm", config.head_dim, bias=False)
            found.norm(f"{layer}.attention.k_norm", config.head_dim, bias=False)
        found.linear(f"{layer}.o", hidden, columns=q, bias=config.o_bias)
        found.norm(f"{layer}.post_attention_norm", hidden, bias=False)
        found.linear(f"{layer}.gate_up", config.intermediate_size, config.intermediate_size, columns=hidden, bias=config.mlp_bias)
        found.linear(f"{layer}.down", hidden, columns=config.intermediate_size, bias=config.mlp_bias)
    found.norm("norm", hidden, bias=False)
    if generates and not config.tie_word_embeddings:
        found.linear("lm_head", config.vocab_size, columns=hidden, bias=False, takes_adapters=False)
    if config.num_labels:
        found.linear("head.out", config.num_labels, columns=hidden, bias=False)
    return found


def _encoder(config: ModelConfig) -> WeightShapes:
    assert not isinstance(config, DecoderConfig)
    found, hidden = WeightShapes(), config.hidden_size
    found.others["embed_tokens.weight"] = (config.vocab_size, hidden)
    found.others["embed_positions.weight"] = (config.first_position + config.max_model_len, hidden)
    if config.num_token_types:
        found.others["embed_types.weight"] = (config.num_token_types, hidden)
    found.norm("embed_norm", hidden, bias=True)
    for i in range(config.num_layers):
        layer = f"layers.{i}"
        found.linear(f"{layer}.qkv", hidden, hidden, hidden, columns=hidden, bias=True)
        found.linear(f"{layer}.o", hidden, columns=hidden, bias=True)
        found.norm(f"{layer}.attention_norm", hidden, bias=True)
        found.linear(f"{layer}.up", config.intermediate_size, columns=hidden, bias=True)
        found.linear(f"{layer}.down", hidden, columns=config.intermediate_size, bias=True)
        found.norm(f"{layer}.output_norm", hidden, bias=True)
    if config.num_labels:
        found.linear("head.dense", hidden, columns=hidden, bias=True)
        found.linear("head.out", config.num_labels, columns=hidden, bias=True)
    return found


def _modernbert(config: ModernBertConfig) -> WeightShapes:
    found, hidden = WeightShapes(), config.hidden_size
    found.others["embed_tokens.weight"] = (config.vocab_size, hidden)
    found.norm("embed_norm", hidden, bias=config.norm_bias)
    for i in range(config.num_layers):
        layer = f"layers.{i}"
        if i:
            found.norm(f"{layer}.attention_norm", hidden, bias=config.norm_bias)
        found.linear(f"{layer}.qkv", 3 * hidden, columns=hidden, bias=config.attention_bias)
        found.linear(f"{layer}.o", hidden, columns=hidden, bias=config.attention_bias)
        found.norm(f"{layer}.mlp_norm", hidden, bias=config.norm_bias)
        found.linear(f"{layer}.gate_up", 2 * config.intermediate_size, columns=hidden, bias=config.mlp_bias)
        found.linear(f"{layer}.down", hidden, columns=config.intermediate_size, bias=config.mlp_bias)
    found.norm("norm", hidden, bias=config.norm_bias)
    if config.num_labels:
        found.linear("head.dense", hidden, columns=hidden, bias=config.head_bias)
        found.norm("head.norm", hidden, bias=config.norm_bias)
        found.linear("head.out", config.num_labels, columns=hidden, bias=True)
    return found
