"""ModernBERT's layers: normalised before each branch, rotary positions, and most of them see the neighbourhood of a token only."""

from __future__ import annotations

from torch import Tensor

from headway.server.distributed.groups import SINGLE
from headway.server.layers.activation import GATED_ACTIVATIONS
from headway.server.layers.bidirectional import BidirectionalStep, bidirectional_attention, prepare_bidirectional
from headway.server.layers.embedding import VocabParallelEmbedding
from headway.server.layers.forward import ForwardBatch, LayerKV
from headway.server.layers.linear import ColumnParallelLinear, RowParallelLinear
from headway.server.layers.norm import LayerNorm
from headway.server.layers.rope_config import RopeConfig
from headway.server.layers.rotary import rope_table, rotated
from headway.server.layers.weight import Layer
from headway.server.models.base import BuildContext, KVSpec
from headway.server.models.head import ClassifierHead
from headway.server.models.modernbert_config import ModernBertConfig


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
