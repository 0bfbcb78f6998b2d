"""The encoder that BERT, RoBERTa, XLM-RoBERTa and DistilBERT are shapes of: attention, then a feed-forward layer, each normalised after."""

from __future__ import annotations

from torch import Tensor

from headway.server.layers.activation import ACTIVATIONS
from headway.server.layers.bidirectional import BidirectionalStep, bidirectional_attention, prepare_bidirectional
from headway.server.layers.embedding import Table, VocabParallelEmbedding
from headway.server.layers.forward import ForwardBatch, LayerKV
from headway.server.layers.linear import ColumnParallelLinear, QKVParallelLinear, RowParallelLinear
from headway.server.layers.norm import LayerNorm
from headway.server.layers.weight import Layer
from headway.server.models.base import BuildContext, EncoderConfig, KVSpec
from headway.server.models.head import ClassifierHead


class EncoderLayer(Layer):
    def __init__(self, config: EncoderConfig, context: BuildContext) -> None:
        method, group, hidden = context.method, context.group, config.hidden_size
        self.qkv = QKVParallelLinear(hidden, config.num_heads, config.num_heads, config.head_dim, bias=True, method=method, group=group)
        self.o = RowParallelLinear(hidden, hidden, bias=True, method=method, group=group)
        self.attention_norm = LayerNorm(hidden, config.norm_eps, dtype=context.dtype, device=context.device)
        self.up = ColumnParallelLinear(hidden, config.intermediate_size, bias=True, method=method, group=group)
        self.down = RowParallelLinear(config.intermediate_size, hidden, bias=True, method=method, group=group)
        self.output_norm = LayerNorm(hidden, config.norm_eps, dtype=context.dtype, device=context.device)
        self._head_dim = config.head_dim
        self._activation = ACTIVATIONS[config.hidden_act]

    def __call__(self, hidden: Tensor, step: BidirectionalStep) -> Tensor:
        attended = bidirectional_attention(self.qkv(hidden), self.qkv.num_heads, self._head_dim, step)
        hidden = self.attention_norm(self.o(attended) + hidden)
        return self.output_norm(self.down(self._activation(self.up(hidden))) + hidden)


class EncoderModel(Layer):
    """See models/base.py Model. It keeps no keys and values: each text is computed whole."""

    def __init__(self, config: EncoderConfig, context: BuildContext, head_activation: str) -> None:
        """``head_activation``: of the dense layer that a classifier of this family has before its last one."""
        hidden, dtype, device = config.hidden_size, context.dtype, context.device
        self.embed_tokens = VocabParallelEmbedding(config.vocab_size, hidden, dtype=dtype, device=device, group=context.group)
        num_positions = config.first_position + config.max_model_len
        self.embed_positions = Table(num_positions, hidden, dtype=dtype, device=device)
        self.embed_types = Table(config.num_token_types, hidden, dtype=dtype, device=device) if config.num_token_types else None
        self.embed_norm = LayerNorm(hidden, config.norm_eps, dtype=dtype, device=device)
        self.layers = [EncoderLayer(config, context) for _ in range(config.num_layers)]
        self.head = ClassifierHead(hidden, config.num_labels, context, activation=head_activation) if config.num_labels else None
        self.kv_spec = KVSpec(0, 0, 0)
        self._first_position = config.first_position
        self._num_token_types = config.num_token_types

    def forward(self, token_ids: Tensor, kv: list[LayerKV], batch: ForwardBatch) -> Tensor:
        step = prepare_bidirectional(batch)
        hidden = self.embed_tokens(token_ids) + self.embed_positions(batch.positions + self._first_position)
        if self.embed_types is not None:
            # Tokenizers tell segments of models that have one row for all, too.
            types = batch.token_types if self._num_token_types > 1 else None
            hidden = hidden + (self.embed_types.first() if types is None else self.embed_types(types))
        hidden = self.embed_norm(hidden)
        for layer in self.layers:
            hidden = layer(hidden, step)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden.float() if self.head is None else self.head(hidden)
