"""How many bytes the weights of a model take as the engine keeps them, from its shape alone.

Names and shapes are those of the layers in models/, which a test holds them against.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from headway.server.config.lora import LoraConfig
from headway.server.config.plan import Plan, is_grouped
from headway.server.distributed.places import PipelineStage
from headway.server.layers.quant.scheme import GGUF_GROUPS, GGUF_NAME, ROUNDED_SCHEMES, WeightScheme, dequantized_name, rounded_scheme
from headway.server.models.base import BlockKind, DecoderConfig, EncoderConfig, MixtureConfig, ModelConfig
from headway.server.models.modernbert_config import ModernBertConfig
from headway.server.sizing.dtypes import itemsize
from headway.server.sizing.model import ModelShape

_LAYER = "layers.{i}"
_SHORT_NAMES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_QUANTIZED_NAMES = {
    "int8": "int8 (8-bit activations)",
    "int4": "int4 (8-bit activations)",
    "gguf": "GGUF blocks (8-bit activations)",
    "gguf_a16": GGUF_NAME,
}
_HEAD = "lm_head.weight"


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
    """By the model's own names, in which ``{i}`` stands for each of its layers and ``{e}`` for each expert: matrices that a method of
    quantisation packs, and what is kept as it is. ``absent``: the layers that lack it, of what some do. ``exact``: what is fp32, whatever
    the others are."""

    layers: range
    num_experts: int = 0
    linears: dict[str, LinearShape] = field(default_factory=dict)
    others: dict[str, tuple[int, ...]] = field(default_factory=dict)
    absent: dict[str, frozenset[int]] = field(default_factory=dict)
    exact: set[str] = field(default_factory=set)

    def linear(
        self, name: str, *rows: int, columns: int, bias: bool, takes_adapters: bool = True, absent: frozenset[int] = frozenset()
    ) -> None:
        self.linears[f"{name}.weight"] = LinearShape(rows, columns, takes_adapters)
        if bias:
            self.others[f"{name}.bias"] = (sum(rows),)
        self.absent |= {f"{name}.{kind}": absent for kind in ("weight", "bias") if absent}

    def other(self, name: str, *shape: int, absent: frozenset[int]) -> None:
        self.others[name] = shape
        self.absent[name] = absent

    def norm(self, name: str, *shape: int, bias: bool, in_first: bool = True, is_exact: bool = False) -> None:
        kinds = ("weight", "bias") if bias else ("weight",)
        self.others |= {f"{name}.{kind}": shape for kind in kinds}
        if is_exact:
            self.exact |= {f"{name}.{kind}" for kind in kinds}
        if not in_first:
            self.absent |= {f"{name}.{kind}": frozenset({0}) for kind in kinds}

    def count(self, name: str) -> int:
        """How many weights the name stands for; without naming them, since a config may claim any number of layers."""
        absent = self.absent.get(name, frozenset())
        num_layers = len(self.layers) - sum(i in self.layers for i in absent) if "{i}" in name else 1
        return num_layers * (self.num_experts if "{e}" in name else 1)

    def names(self, name: str) -> list[str]:
        """All that the name stands for."""
        absent = self.absent.get(name, frozenset())
        layers = [i for i in self.layers if i not in absent] if "{i}" in name else [0]
        experts = range(self.num_experts) if "{e}" in name else (0,)
        return [name.replace("{i}", str(i)).replace("{e}", str(e)) for i in layers for e in experts]


def weight_shapes(shape: ModelShape) -> WeightShapes:
    """Of a stage's layers on one device. A tied head has a weight of its own only where its table is on another stage."""
    config = shape.config
    if isinstance(config, DecoderConfig):
        return _decoder(config, shape.held_experts, shape.stage, generates=shape.use == "generate")
    return _modernbert(config) if isinstance(config, ModernBertConfig) else _encoder(config)


def weight_bytes(shape: ModelShape, plan: Plan, *, on_cpu: bool) -> int:
    """As LoadedModel.weight_bytes has it."""
    shapes = weight_shapes(shape)
    config, size = shape.config, itemsize(plan.dtype)
    others = sum(shapes.count(name) * math.prod(other) * (4 if name in shapes.exact else size) for name, other in shapes.others.items())
    matrices = [(shapes.count(name), *linear.shape) for name, linear in shapes.linears.items()]
    head = (1, config.vocab_size, config.hidden_size)
    is_tied = shape.use == "generate" and config.tie_word_embeddings and shape.stage.size == 1
    if plan.quantization == "int8":
        # A tied head is packed for itself, since rotation takes the last norm into it. A scale of fp32 for each row.
        matrices += [head] if is_tied else []
        return others + sum(count * (rows * columns + 4 * rows) for count, rows, columns in matrices)
    if plan.quantization != "none":
        assert isinstance(config, DecoderConfig), "only those are kept so"
        if is_grouped(plan.quantization):
            return others + _grouped_bytes(shapes, config, plan, is_tied=is_tied)
        kept = _block_bytes(shapes, config, plan) if plan.quantization == "gguf_a16" else _kept_bytes(shapes, config, plan, size)
        matrices, others = [], others + kept
    if is_tied and on_cpu and plan.dtype != "float16":
        matrices.append(head)  # packed into another layout than the table that it is tied to; fp16 is not packed
    return others + sum(math.prod(matrix) for matrix in matrices) * size


def weight_format(plan: Plan, config: ModelConfig) -> str:
    """As EngineInfo.weight_format has it."""
    scheme = config.scheme if isinstance(config, DecoderConfig) else None
    if plan.quantization in _QUANTIZED_NAMES:
        return _QUANTIZED_NAMES[plan.quantization]
    if plan.quantization == "none":
        return dequantized_name(_SHORT_NAMES[plan.dtype], scheme)
    return _scheme(config, plan).grouped_name if plan.quantization == "w4a8" else _scheme(config, plan).name


def _scheme(config: ModelConfig, plan: Plan) -> WeightScheme:
    """Of weights that are kept as a checkpoint has them, or as they are rounded when it is loaded."""
    scheme = rounded_scheme(plan.quantization, config.hidden_size) or (config.scheme if isinstance(config, DecoderConfig) else None)
    assert scheme is not None, "only those of a quantised checkpoint are kept so"
    return scheme


def _kept_bytes(shapes: WeightShapes, config: DecoderConfig, plan: Plan, size: int) -> int:
    """Of the matrices of a quantised checkpoint; those that it has not quantised take ``size`` bytes a number."""
    scheme = _scheme(config, plan)

    def num_bytes(pattern: str, linear: LinearShape) -> int:
        count = shapes.count(pattern)
        num_kept = _num_rounded(shapes, pattern, config, plan) if scheme.keeps(linear.rows) else 0
        kept = num_kept * scheme.num_bytes(linear.rows, linear.columns) if num_kept else 0
        return kept + (count - num_kept) * math.prod(linear.shape) * size

    return sum(num_bytes(pattern, linear) for pattern, linear in shapes.linears.items())


def _block_bytes(shapes: WeightShapes, config: DecoderConfig, plan: Plan) -> int:
    """Of a quantised GGUF's matrices on a GPU."""
    wide, total = replace(GGUF_GROUPS, bits=8), 0
    for pattern, linear in shapes.linears.items():
        of_4_bits = _num_rounded(shapes, pattern, config, plan)
        total += of_4_bits * GGUF_GROUPS.num_bytes(linear.rows, linear.columns)
        total += (shapes.count(pattern) - of_4_bits) * wide.num_bytes(linear.rows, linear.columns)
    return total


def _num_rounded(shapes: WeightShapes, pattern: str, config: DecoderConfig, plan: Plan) -> int:
    """How many of the weights that ``pattern`` stands for are in few bits: those that the checkpoint names, or where they are rounded as
    they are loaded all but the head."""
    if plan.quantization in ROUNDED_SCHEMES:
        return 0 if pattern == _HEAD else shapes.count(pattern)
    named = config.four_bit_linears if plan.quantization in ("gguf", "gguf_a16") else config.quantized_linears
    return sum(name in named for name in shapes.names(pattern)) if named else 0


def _grouped_bytes(shapes: WeightShapes, config: DecoderConfig, plan: Plan, *, is_tied: bool) -> int:
    """Tiles of 16 rows and groups of 32 columns, whose scales and offsets are 16 bits each."""

    def num_bytes(rows: int, columns: int, bits: int) -> int:
        return -(-rows // 16) * -(-columns // 32) * (64 + 64 * bits)

    total = num_bytes(config.vocab_size, config.hidden_size, 8) if is_tied else 0
    for pattern, linear in shapes.linears.items():
        of_4_bits = _num_rounded(shapes, pattern, config, plan)
        if plan.quantization == "w4a8" and _scheme(config, plan).has_order:
            total += 8 * of_4_bits * linear.columns  # the order of its columns, as the usual tools write them: one for all parts
        total += of_4_bits * num_bytes(*linear.shape, 4) + (shapes.count(pattern) - of_4_bits) * num_bytes(*linear.shape, 8)
    return total


def adapter_bytes(shape: ModelShape, plan: Plan, lora: LoraConfig) -> int:
    """Room for adapters on every linear layer, the embedding and the head, which is taken at the start."""
    if not lora.enable_lora:
        return 0
    shapes, config, rank = weight_shapes(shape), shape.config, lora.max_lora_rank
    linears = [(shapes.count(name), linear) for name, linear in shapes.linears.items() if linear.takes_adapters]
    if _HEAD not in shapes.linears and shape.stage.is_last:  # tied, and its adapters are its own
        linears.append((1, LinearShape((config.vocab_size,), config.hidden_size)))
    of_embedding = rank * (config.vocab_size + config.hidden_size) * itemsize(plan.dtype) if shape.stage.is_first else 0
    if is_grouped(plan.quantization):
        bytes_of = sum(count * _grouped_update_bytes(rows, linear.columns, rank) for count, linear in linears for rows in linear.rows)
        return lora.max_loras * (bytes_of + of_embedding)
    per_rank = sum(count * (len(linear.rows) * linear.columns + sum(linear.rows)) for count, linear in linears)
    return lora.max_loras * (rank * per_rank * itemsize(plan.adapter_dtype) + of_embedding)


def _grouped_update_bytes(rows: int, columns: int, rank: int) -> int:
    """As kernels/cpu/grouped_lora.py has it: A as a weight of 8 bits, B with a scale of 16 bits for 16 ranks, in whole lines of 64."""
    rank_tiles, row_tiles = -(-rank // 16), -(-rows // 16)
    return rank_tiles * -(-columns // 32) * 576 + -(-row_tiles * rank_tiles * 32 // 64) * 64 + row_tiles * -(-rank // 4) * 64


def _decoder(config: DecoderConfig, num_experts: int, stage: PipelineStage, *, generates: bool) -> WeightShapes:
    found, hidden = WeightShapes(stage.layers(config.num_layers), num_experts), config.hidden_size
    if stage.is_first:
        found.others["embed_tokens.weight"] = (config.vocab_size, hidden)
        if config.num_positions:
            found.others["embed_positions.weight"] = (config.num_positions, hidden)
    if config.latent is not None:
        _latent_attention(found, config)
    else:
        q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        found.linear(f"{_LAYER}.qkv", q, kv, kv, columns=hidden, bias=config.qkv_bias)
        found.linear(f"{_LAYER}.o", hidden, columns=q, bias=config.o_bias)
    if config.has_sinks:
        found.others[f"{_LAYER}.attention.sinks.weight"] = (config.num_heads,)
    mixtures = frozenset(i for i in range(config.num_layers) if config.mixture_of(i) is not None) if config.mixture else frozenset()
    if len(mixtures) < config.num_layers:
        _feed_forward(found, config, mixtures)
    if config.mixture is not None:
        _mixture(found, config.mixture, hidden)
    _layer_norms(found, config)
    if not stage.is_last:
        return found
    found.norm("norm", hidden, bias=config.norm_bias, is_exact=config.norm == "exact_rms")
    if generates and not (config.tie_word_embeddings and stage.size == 1):
        found.linear("lm_head", config.vocab_size, columns=hidden, bias=False)
    if config.num_labels:
        found.linear("head.out", config.num_labels, columns=hidden, bias=False)
    return found


def _latent_attention(found: WeightShapes, config: DecoderConfig) -> None:
    latent = config.latent
    assert latent is not None, "it has latents"
    hidden, heads, own = config.hidden_size, config.num_heads, f"{_LAYER}.latent"
    q = heads * latent.q_dim
    if latent.q_rank:
        found.linear(f"{own}.q_a", latent.q_rank, columns=hidden, bias=config.qkv_bias)
        found.norm(f"{own}.q_a_norm", latent.q_rank, bias=False)
        found.linear(f"{own}.q_b", q, columns=latent.q_rank, bias=False)
    else:
        found.linear(f"{own}.q", q, columns=hidden, bias=False)
    found.linear(f"{own}.kv_a", latent.page_dim, columns=hidden, bias=config.qkv_bias)
    found.norm(f"{own}.kv_a_norm", latent.kv_rank, bias=False)
    found.others[f"{own}.kv_b.weight"] = (heads * (latent.nope_dim + latent.v_dim), latent.kv_rank)
    found.linear(f"{_LAYER}.o", hidden, columns=heads * latent.v_dim, bias=config.o_bias)


def _feed_forward(found: WeightShapes, config: DecoderConfig, absent: frozenset[int]) -> None:
    hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
    if config.is_gated:
        found.linear(f"{_LAYER}.gate_up", inner, inner, columns=hidden, bias=bias, absent=absent)
    else:
        found.linear(f"{_LAYER}.up", inner, columns=hidden, bias=bias, absent=absent)
    found.linear(f"{_LAYER}.down", hidden, columns=inner, bias=bias, absent=absent)


def _mixture(found: WeightShapes, mixture: MixtureConfig, hidden: int) -> None:
    moe, inner, dense = f"{_LAYER}.moe", mixture.intermediate_size, mixture.dense_layers
    expert = f"{moe}.routed.experts.{{e}}"
    found.other(f"{moe}.router.weight", mixture.num_experts, hidden, absent=dense)
    if mixture.is_exact_router:
        found.exact.add(f"{moe}.router.weight")
    if mixture.has_choice_bias:
        found.other(f"{moe}.router.choice_bias", mixture.num_experts, absent=dense)
        found.exact.add(f"{moe}.router.choice_bias")
    if mixture.router_bias:
        found.other(f"{moe}.router.bias", mixture.num_experts, absent=dense)
    found.linear(f"{expert}.gate_up", inner, inner, columns=hidden, bias=mixture.expert_bias, takes_adapters=False, absent=dense)
    found.linear(f"{expert}.down", hidden, columns=inner, bias=mixture.expert_bias, takes_adapters=False, absent=dense)
    if mixture.shared_size:
        shared = mixture.shared_size
        found.linear(f"{moe}.shared.gate_up", shared, shared, columns=hidden, bias=False, absent=dense)
        found.linear(f"{moe}.shared.down", hidden, columns=shared, bias=False, absent=dense)
        if mixture.has_shared_gate:
            found.other(f"{moe}.shared.gate", 1, hidden, absent=dense)


_BLOCK_NORMS: dict[BlockKind, tuple[str, ...]] = {
    "pre": ("input_norm", "post_attention_norm"),
    "post": ("attention_out_norm", "feed_forward_out_norm"),
    "sandwich": ("input_norm", "attention_out_norm", "feed_forward_norm", "feed_forward_out_norm"),
    "parallel": ("input_norm",),
}


def _layer_norms(found: WeightShapes, config: DecoderConfig) -> None:
    is_exact = config.norm == "exact_rms"
    for name in _BLOCK_NORMS[config.block]:
        found.norm(f"{_LAYER}.{name}", config.hidden_size, bias=config.norm_bias, is_exact=is_exact)
    for name, num_heads in (("q_norm", config.num_heads), ("k_norm", config.num_kv_heads)) if config.qk_norm else ():
        shape: tuple[int, ...] = (config.head_dim,)
        if config.norm == "layer":
            shape = (num_heads, config.head_dim)
        elif config.has_whole_qk_norm:
            shape = (num_heads * config.head_dim,)
        found.norm(f"{_LAYER}.attention.{name}", *shape, bias=False, is_exact=is_exact)


def _encoder(config: EncoderConfig) -> WeightShapes:
    found, hidden = WeightShapes(range(config.num_layers)), config.hidden_size
    found.others["embed_tokens.weight"] = (config.vocab_size, hidden)
    found.others["embed_positions.weight"] = (config.first_position + config.max_model_len, hidden)
    if config.num_token_types:
        found.others["embed_types.weight"] = (config.num_token_types, hidden)
    found.norm("embed_norm", hidden, bias=True)
    found.linear(f"{_LAYER}.qkv", hidden, hidden, hidden, columns=hidden, bias=True)
    found.linear(f"{_LAYER}.o", hidden, columns=hidden, bias=True)
    found.norm(f"{_LAYER}.attention_norm", hidden, bias=True)
    found.linear(f"{_LAYER}.up", config.intermediate_size, columns=hidden, bias=True)
    found.linear(f"{_LAYER}.down", hidden, columns=config.intermediate_size, bias=True)
    found.norm(f"{_LAYER}.output_norm", hidden, bias=True)
    if config.num_labels:
        found.linear("head.dense", hidden, columns=hidden, bias=True)
        found.linear("head.out", config.num_labels, columns=hidden, bias=True)
    return found


def _modernbert(config: ModernBertConfig) -> WeightShapes:
    found, hidden = WeightShapes(range(config.num_layers)), config.hidden_size
    found.others["embed_tokens.weight"] = (config.vocab_size, hidden)
    found.norm("embed_norm", hidden, bias=config.norm_bias)
    found.norm(f"{_LAYER}.attention_norm", hidden, bias=config.norm_bias, in_first=False)
    found.linear(f"{_LAYER}.qkv", 3 * hidden, columns=hidden, bias=config.attention_bias)
    found.linear(f"{_LAYER}.o", hidden, columns=hidden, bias=config.attention_bias)
    found.norm(f"{_LAYER}.mlp_norm", hidden, bias=config.norm_bias)
    found.linear(f"{_LAYER}.gate_up", 2 * config.intermediate_size, columns=hidden, bias=config.mlp_bias)
    found.linear(f"{_LAYER}.down", hidden, columns=config.intermediate_size, bias=config.mlp_bias)
    found.norm("norm", hidden, bias=config.norm_bias)
    if config.num_labels:
        found.linear("head.dense", hidden, columns=hidden, bias=config.head_bias)
        found.norm("head.norm", hidden, bias=config.norm_bias)
        found.linear("head.out", config.num_labels, columns=hidden, bias=True)
    return found
