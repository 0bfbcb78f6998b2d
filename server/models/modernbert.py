"""ModernBERT: normalised before each branch, rotary positions, and most layers see the neighbourhood of a token only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from headway.server.distributed.groups import SINGLE
from headway.server.layers.activation import ACTIVATIONS, GATED_ACTIVATIONS
from headway.server.layers.bidirectional import BidirectionalStep, bidirectional_attention, prepare_bidirectional
from headway.server.layers.embedding import VocabParallelEmbedding
from headway.server.layers.forward import ForwardBatch, LayerKV
from headway.server.layers.linear import ColumnParallelLinear, RowParallelLinear
from headway.server.layers.norm import LayerNorm
from headway.server.layers.rope_config import RopeConfig
from headway.server.layers.rotary import rope_table, rotated
from headway.server.layers.weight import Layer
from headway.server.models.base import BuildContext, EncoderConfig, KVSpec, PooledFamily
from headway.server.models.decoder_config import read_dtype
from headway.server.models.encoder_names import BERT_HEADS
from headway.server.models.head import ClassifierHead
from headway.server.models.names import WeightName
from headway.server.models.raw_config import RawConfig, num_labels_of

_LAYER_TYPES = ("full_attention", "sliding_attention")
_THETAS = {"full_attention": ("global_rope_theta", 160_000.0), "sliding_attention": ("local_rope_theta", 10_000.0)}


@dataclass(frozen=True, slots=True)
class ModernBertConfig(EncoderConfig):
    windows: tuple[int, ...] = ()  # one a layer: how far a token sees to either side; 0: everything
    thetas: tuple[float, float] = (0.0, 0.0)  # of layers that see everything, of the others
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    head_activation: str = "gelu"


class ModernBertLayer(Layer):
    def __init__(self, config: ModernBertConfig, index: int, context: BuildContext) -> None:
        method, hidden = context.method, config.hidden_size

        def norm() -> LayerNorm:
            return LayerNorm(hidden, config.norm_eps, has_bias=config.norm_bias, dtype=context.dtype, device=context.device)

        # The checkpoint's fused tensors are not cut: every rank would need its own rows of each part.
        self.attention_norm = norm() if index else None  # the embeddings are normalised
        self.qkv = ColumnParallelLinear(hidden, 3 * hidden, bias=config.attention_bias, method=method, group=SINGLE)
        self.o = RowParallelLinear(hidden, hidden, bias=config.attention_bias, method=method, group=SINGLE)
        self.mlp_norm = norm()
        self.gate_up = ColumnParallelLinear(hidden, 2 * config.intermediate_size, bias=config.mlp_bias, method=method, group=SINGLE)
        self.down = RowParallelLinear(config.intermediate_size, hidden, bias=config.mlp_bias, method=method, group=SINGLE)
        self.window = config.windows[index]
        self._num_heads, self._head_dim = config.num_heads, config.head_dim
        self._activation = GATED_ACTIVATIONS[config.hidden_act]

    def __call__(self, hidden: Tensor, step: BidirectionalStep, cos_sin: Tensor) -> Tensor:
        """``cos_sin`` [T, head_dim]: of each token's position."""
        normed = hidden if self.attention_norm is None else self.attention_norm(hidden)
        qkv = self.qkv(normed).view(len(hidden), 3, self._num_heads, self._head_dim)
        qkv[:, :2] = rotated(qkv[:, :2], cos_sin[:, None, None])
        hidden = hidden + self.o(bidirectional_attention(qkv.flatten(1), self._num_heads, self._head_dim, step, self.window))
        return hidden + self.down(self._activation(self.gate_up(self.mlp_norm(hidden))))


class ModernBertModel(Layer):
    """See models/base.py Model."""

    def __init__(self, config: ModernBertConfig, context: BuildContext) -> None:
        hidden, dtype, device = config.hidden_size, context.dtype, context.device

        def norm() -> LayerNorm:
            return LayerNorm(hidden, config.norm_eps, has_bias=config.norm_bias, dtype=dtype, device=device)

        self.embed_tokens = VocabParallelEmbedding(config.vocab_size, hidden, dtype=dtype, device=device, group=context.group)
        self.embed_norm = norm()
        self.layers = [ModernBertLayer(config, i, context) for i in range(config.num_layers)]
        self.norm = norm()
        self.head = None
        if config.num_labels:
            self.head = ClassifierHead(
                hidden, config.num_labels, context, activation=config.head_activation, dense_bias=config.head_bias, norm=norm()
            )
        self.kv_spec = KVSpec(0, 0, 0)
        self._tables = [rope_table(RopeConfig(config.head_dim, theta), context.max_model_len, device) for theta in config.thetas]

    def forward(self, token_ids: Tensor, kv: list[LayerKV], batch: ForwardBatch) -> Tensor:
        step = prepare_bidirectional(batch)
        everywhere, nearby = (table[batch.positions] for table in self._tables)
        hidden = self.embed_norm(self.embed_tokens(token_ids))
        for layer in self.layers:
            hidden = layer(hidden, step, nearby if layer.window else everywhere)
        return self.norm(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden.float() if self.head is None else self.head(hidden)


def read_config(raw: RawConfig, is_classifier: bool) -> ModernBertConfig:
    activation, head_activation = raw.text("hidden_activation", "gelu"), raw.text("classifier_activation", "gelu")
    if activation not in GATED_ACTIVATIONS:
        raise raw.refusal(f"hidden_activation {activation!r} is not supported; {', '.join(GATED_ACTIVATIONS)} are")
    if head_activation not in ACTIVATIONS:
        raise raw.refusal(f"classifier_activation {head_activation!r} is not supported; {', '.join(ACTIVATIONS)} are")
    types = raw.get("layer_types") or _layer_types(raw)
    if not isinstance(types, list) or len(types) != raw.integer("num_hidden_layers") or not set(types) <= set(_LAYER_TYPES):
        raise raw.refusal(f"layer_types must name {' or '.join(_LAYER_TYPES)} for each layer, not {types!r}")
    window = raw.integer("local_attention", 128) // 2
    return ModernBertConfig(
        architecture="modernbert",
        vocab_size=raw.integer("vocab_size"),
        hidden_size=raw.integer("hidden_size"),
        intermediate_size=raw.integer("intermediate_size"),
        num_layers=len(types),
        num_heads=raw.integer("num_attention_heads"),
        norm_eps=raw.number("norm_eps", 1e-5),
        hidden_act=activation,
        max_model_len=raw.integer("max_position_embeddings"),
        checkpoint_dtype=read_dtype(raw),
        num_labels=num_labels_of(raw) if is_classifier else 0,
        windows=tuple(window if kind == "sliding_attention" else 0 for kind in types),
        thetas=(_theta(raw, "full_attention"), _theta(raw, "sliding_attention")),
        norm_bias=raw.flag("norm_bias"),
        attention_bias=raw.flag("attention_bias"),
        mlp_bias=raw.flag("mlp_bias"),
        head_bias=raw.flag("classifier_bias"),
        head_activation=head_activation,
    )


def _layer_types(raw: RawConfig) -> list[str]:
    """As configs wrote it first: every so many layers one that sees everything."""
    every = raw.integer("global_attn_every_n_layers", 3)
    return [_LAYER_TYPES[bool(i % every)] for i in range(raw.integer("num_hidden_layers"))]


def _theta(raw: RawConfig, kind: str) -> float:
    own = (raw.get("rope_parameters") or {}).get(kind) or {}
    if not isinstance(own, dict) or own.get("rope_type", "default") != "default":
        raise raw.refusal(f"the rope parameters {own!r} are not supported; rope_type default is")
    key, default = _THETAS[kind]
    return RawConfig(own, raw.origin).number("rope_theta", raw.number(key, default))


_LAYER = {
    "attn_norm": "attention_norm",
    "attn.Wqkv": "qkv",
    "attn.Wo": "o",
    "mlp_norm": "mlp_norm",
    "mlp.Wi": "gate_up",
    "mlp.Wo": "down",
}
_NAMES = (
    WeightName("model.embeddings.tok_embeddings.weight", "embed_tokens.weight"),
    *(
        WeightName(f"{theirs}.{kind}", f"{ours}.{kind}")
        for theirs, ours in {
            "model.embeddings.norm": "embed_norm",
            "model.final_norm": "norm",
            **{f"model.layers.{{i}}.{theirs}": f"layers.{{i}}.{ours}" for theirs, ours in _LAYER.items()},
            "head.dense": "head.dense",
            "head.norm": "head.norm",
            "classifier": "head.out",
        }.items()
        for kind in ("weight", "bias")
    ),
)
_HEADS = ("head.dense.weight", "head.dense.bias", "head.norm.weight", "head.norm.bias", "decoder.weight", "decoder.bias")


def family(is_classifier: bool) -> PooledFamily:
    return PooledFamily(
        "modernbert",
        partial(read_config, is_classifier=is_classifier),
        ModernBertModel,
        _NAMES,
        prefix="model.",
        pooling="cls",
        ignored=(*BERT_HEADS, *_HEADS),
    )
