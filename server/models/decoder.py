"""The decoder that all families are shapes of, made of layers of one kind; here the kind with a norm before each branch."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from headway.kernels.decoder_layer import FusedEnd
from headway.kernels.plans import LoraPlan
from headway.server.errors import ModelSourceError
from headway.server.layers.activation import ACTIVATIONS, GATED_ACTIVATIONS
from headway.server.layers.attention import Attention, AttentionSinks, AttentionStep, prepare_attention
from headway.server.layers.embedding import ParallelLMHead, Table, VocabParallelEmbedding
from headway.server.layers.forward import ForwardBatch, LayerKV
from headway.server.layers.fused_layer import FusableLayer, FusedLayers, StepTokens, fusable_end, fusable_layer
from headway.server.layers.linear import (
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
    kv_heads_per_rank,
)
from headway.server.layers.norm import RMSNorm
from headway.server.layers.rotary import rope_table
from headway.server.layers.weight import Layer
from headway.server.models.base import BuildContext, DecoderConfig, KVSpec
from headway.server.models.decoder_norms import normed, qk_norms, stream_norm
from headway.server.models.mixture import build_mixture
from headway.server.models.taps import LayerTaps


class DecoderBranches(Layer):
    """What a layer of every kind has: attention and a feed-forward layer, each a branch of the residual stream. Kinds differ in norms.

    A call gives (branch output, residual) [T, H] each; the layer's value is their sum, whose addition is fused with the next norm. It takes
    those of the layer before; ``residual`` is None before the first layer. The inputs are given up to the call, which may write its
    outputs over them."""

    num_attended = 1  # vectors of the hidden size that attention reads of a token

    def __init__(self, config: DecoderConfig, index: int, context: BuildContext) -> None:
        self._group = context.group
        self._build_attention(config, index, context)
        mixture = config.mixture_of(index)
        self.moe = build_mixture(mixture, config.hidden_size, context) if mixture is not None else None
        if self.moe is None:
            self._build_feed_forward(config, context)
        self._scale = config.residual_scale

    def _build_attention(self, config: DecoderConfig, index: int, context: BuildContext) -> None:
        method, group, hidden = context.method, context.group, config.hidden_size
        heads = (config.num_heads, config.num_kv_heads, config.head_dim)
        self.qkv = QKVParallelLinear(self.num_attended * hidden, *heads, bias=config.qkv_bias, method=method, group=group)
        self.attention = _attention(config, index, self.qkv, context)
        self.o = RowParallelLinear(config.num_heads * config.head_dim, hidden, bias=config.o_bias, method=method, group=group)

    def _build_feed_forward(self, config: DecoderConfig, context: BuildContext) -> None:
        method, group, hidden = context.method, context.group, config.hidden_size
        if config.is_gated:
            sizes = {"gate": config.intermediate_size, "up": config.intermediate_size}
            self.gate_up = MergedColumnParallelLinear(hidden, sizes, bias=config.mlp_bias, method=method, group=group)
        else:
            self.up = ColumnParallelLinear(hidden, config.intermediate_size, bias=config.mlp_bias, method=method, group=group)
        gated = method.for_gated_input()
        self.down = RowParallelLinear(config.intermediate_size, hidden, bias=config.mlp_bias, method=gated, group=group)
        self._is_gated = config.is_gated
        self._activation = (GATED_ACTIVATIONS if config.is_gated else ACTIVATIONS)[config.hidden_act]

    def __call__(
        self, hidden: Tensor, residual: Tensor | None, kv: LayerKV, step: AttentionStep, lora: LoraPlan | None
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("a kind of layer says how its branches stand")

    def attend(self, hidden: Tensor, kv: LayerKV, step: AttentionStep, lora: LoraPlan | None) -> Tensor:
        hidden = self._group.all_rows(hidden, len(step.positions))
        return self._scaled(self.o(self.attention(self.qkv(hidden, lora), kv, step), lora))

    def feed_forward(self, hidden: Tensor, step: AttentionStep, lora: LoraPlan | None) -> Tensor:
        hidden = self._group.all_rows(hidden, len(step.positions))
        if self.moe is not None:
            return self._scaled(self.moe(hidden, lora))
        widen = self.gate_up if self._is_gated else self.up
        return self._scaled(self.down(self._activation(widen(hidden, lora)), lora))  # what is widest has no name: it ends with the gate

    @cached_property
    def fusable(self) -> FusableLayer | None:
        """All of a call as a kernel takes it together with other layers; None where none does. Of the loaded layer."""
        return None

    def _scaled(self, branch: Tensor) -> Tensor:
        return branch if self._scale == 1.0 else branch * self._scale


class DecoderLayer(DecoderBranches):
    """The kind that most have: a norm before each branch."""

    def __init__(self, config: DecoderConfig, index: int, context: BuildContext) -> None:
        super().__init__(config, index, context)
        self.input_norm = stream_norm(config, context)
        self.post_attention_norm = stream_norm(config, context)
        self._is_fusable = config.is_gated and config.hidden_act == "silu" and config.residual_scale == 1.0

    def __call__(
        self, hidden: Tensor, residual: Tensor | None, kv: LayerKV, step: AttentionStep, lora: LoraPlan | None
    ) -> tuple[Tensor, Tensor]:
        if self._fused is not None and self._fused.fits([kv], lora) and (tokens := StepTokens.of_step(step)) is not None:
            return self._fused(hidden, residual, [kv], tokens, lora)
        hidden, residual = normed(self.input_norm, hidden, residual)
        hidden = self.attend(hidden, kv, step, lora)
        hidden, residual = self.post_attention_norm.add(hidden, residual)
        return self.feed_forward(hidden, step, lora), residual

    @cached_property
    def fusable(self) -> FusableLayer | None:
        if self.moe is not None or not self._is_fusable:
            return None
        if not isinstance(self.input_norm, RMSNorm) or not isinstance(self.post_attention_norm, RMSNorm):
            return None
        return fusable_layer(self.input_norm, self.qkv, self.attention, self.o, self.post_attention_norm, self.gate_up, self.down)

    @cached_property
    def _fused(self) -> FusedLayers | None:
        return None if self.fusable is None else FusedLayers([self.fusable])


class Decoder(Layer):
    """All of the model but what stands on its hidden states: see models/base.py Model. ``layer``: the kind that it is made of."""

    def __init__(self, config: DecoderConfig, context: BuildContext, layer: type[DecoderBranches]) -> None:
        vocab_size, hidden, dtype, device = config.vocab_size, config.hidden_size, context.dtype, context.device
        stage, own = context.stage, context.stage.layers(config.num_layers)
        self.embed_tokens: VocabParallelEmbedding | None = None
        self.embed_positions: Table | None = None
        if stage.is_first:
            self.embed_tokens = VocabParallelEmbedding(vocab_size, hidden, dtype=dtype, device=device, group=context.group)
            self.embed_positions = _position_table(config, context)
        self.layers = {i: layer(config, i, context) for i in own}  # by their place in the whole model
        self.norm = stream_norm(config, context) if stage.is_last else None
        self.kv_spec = KVSpec(len(own), kv_heads_per_rank(config.num_kv_heads, context.group), config.head_dim, config.latent is not None)
        self._group = context.group
        self._library = context.attention
        self._first_position = config.first_position
        # As the type of activations has it: so Gemma was trained.
        self._embedding_scale = float(torch.tensor(config.embedding_scale, dtype=dtype))
        self._windows = tuple(sorted({config.sliding_window(i) for i in own}))
        self._rope_tables = [rope_table(rope, context.max_model_len, device) for rope in config.distinct_ropes]
        self.taps: LayerTaps | None = None  # of somebody who wants what layers read; set before steps are recorded

    def forward(self, token_ids: Tensor, kv: list[LayerKV], batch: ForwardBatch) -> Tensor:
        if (layers := self._fused_in(batch, kv)) is not None and (tokens := StepTokens.of_batch(batch, self._rope_tables)) is not None:
            return self._at_once(layers, token_ids, kv, tokens, batch)
        step = prepare_attention(batch, self._rope_tables, self._windows, kv[0], self._group.context, self._library)
        own = token_ids if step.prompts is None else token_ids[step.prompts.own]
        hidden, residual = self._through_layers(self._embedded(own, step.positions, batch.lora), kv, step, batch)
        return self._whole(self._group.all_rows(self._summed(hidden, residual), len(own)), step)

    def _fused_in(self, batch: ForwardBatch, kv: list[LayerKV]) -> FusedLayers | None:
        """None where a step's layers must be called one by one."""
        is_watched = self.taps is not None or batch.watcher is not None  # between layers
        return self._fused if not is_watched and self._fused is not None and self._fused.fits(kv, batch.lora) else None

    def _at_once(self, layers: FusedLayers, token_ids: Tensor, kv: list[LayerKV], tokens: StepTokens, batch: ForwardBatch) -> Tensor:
        """``forward`` of layers that are all on this rank, in a step of one token a row."""
        if not batch.wants_head or self._fused_end is None:
            return self._summed(*layers(self._embedded(token_ids, batch.positions, batch.lora), None, kv, tokens, batch.lora))
        has_token_ids = self._fused_end.parts.table is not None and batch.lora is None
        start = token_ids if has_token_ids else self._embedded(token_ids, batch.positions, batch.lora)
        hidden, batch.head = layers.to_logits(start, kv, tokens, batch.lora, self._fused_end, has_token_ids=has_token_ids)
        return hidden

    def _summed(self, hidden: Tensor, residual: Tensor) -> Tensor:
        """The next stage adds nothing to the sum: its first norm would have taken it rounded as it is here."""
        return self.norm.add(hidden, residual)[0] if self.norm is not None else hidden + residual

    def _through_layers(self, hidden: Tensor, kv: list[LayerKV], step: AttentionStep, batch: ForwardBatch) -> tuple[Tensor, Tensor]:
        residual = None
        for (index, layer), pages in zip(self.layers.items(), kv, strict=True):
            if self.taps is not None:
                self.taps.take(index, hidden, residual)
            hidden, residual = layer(hidden, residual, pages, step, batch.lora)
            if batch.watcher is not None:
                batch.watcher.on_layer()
        assert residual is not None, "a decoder has at least one layer"
        return hidden, residual

    @cached_property
    def _fused_end(self) -> FusedEnd | None:
        """The embedding, the last norm and the head, for the same call as all layers; None where that is not all that follows them."""
        return None

    @cached_property
    def _fused(self) -> FusedLayers | None:
        """All layers in one call."""
        layers = [layer.fusable for layer in self.layers.values() if layer.fusable is not None]
        return FusedLayers(layers) if len(layers) == len(self.layers) else None

    def _whole(self, hidden: Tensor, step: AttentionStep) -> Tensor:
        """Of all tokens of the step, where this rank computed some."""
        if step.prompts is None:
            return hidden
        assert self._group.context is not None, "prompts are dealt out among ranks"
        return step.prompts.whole(hidden, self._group.context.ranks)

    def _embedded(self, token_ids: Tensor, positions: Tensor, lora: LoraPlan | None) -> Tensor:
        """Behind the first stage ``token_ids`` are the hidden states of the stage before."""
        if self.embed_tokens is None:
            return token_ids
        hidden = self.embed_tokens(token_ids, lora)
        if self._embedding_scale != 1.0:
            hidden = hidden * self._embedding_scale
        return hidden if self.embed_positions is None else hidden + self.embed_positions(positions + self._first_position)


class DecoderModel(Decoder):
    """One that says which token is next; of its stages the last does."""

    def __init__(self, config: DecoderConfig, context: BuildContext, layer: type[DecoderBranches]) -> None:
        super().__init__(config, context, layer)
        if not context.stage.is_last:
            return
        self.lm_head = ParallelLMHead(
            config.vocab_size,
            config.hidden_size,
            tied_to=self.embed_tokens if config.tie_word_embeddings else None,
            method=context.method,
            group=context.group,
            scale=config.logit_scale,
            softcap=config.logit_softcap,
        )

    @cached_property
    def _fused_end(self) -> FusedEnd | None:
        if not isinstance(self.norm, RMSNorm):
            return None
        has_plain_embedding = self._embedding_scale == 1.0 and self.embed_positions is None
        return fusable_end(self.embed_tokens if has_plain_embedding else None, self.norm, self.lm_head)

    def logits(self, hidden: Tensor, lora: LoraPlan | None = None) -> Tensor:
        """See Model. ``lora``: the adapters of these hidden states, None for none."""
        return self.lm_head(hidden, lora)

    def local_logits(self, hidden: Tensor, lora: LoraPlan | None = None) -> Tensor:
        """hidden [L, H] -> this rank's columns of ``logits``: see ParallelLMHead.local."""
        return self.lm_head.local(hidden, lora)


def _attention(config: DecoderConfig, index: int, qkv: QKVParallelLinear, context: BuildContext) -> Attention:
    q_norm, k_norm = qk_norms(config, qkv, context) if config.qk_norm else (None, None)
    rotation, sinks = config.rotation(index), None
    if config.has_sinks:
        sinks = AttentionSinks(config.num_heads, dtype=context.dtype, device=context.device, group=context.group)
    return Attention(
        qkv.num_heads,
        qkv.num_kv_heads,
        config.head_dim,
        sliding_window=config.sliding_window(index),
        scale=config.attention_scale or None,
        softcap=config.attention_softcap,
        rotation=rotation,
        is_interleaved=config.distinct_ropes[rotation].is_interleaved,
        q_norm=q_norm,
        k_norm=k_norm,
        sinks=sinks,
        context=context.group.context,
        library=context.attention,
    )


def _position_table(config: DecoderConfig, context: BuildContext) -> Table | None:
    """Raises ModelSourceError where positions will be asked for that it has no row for."""
    if not config.num_positions:
        return None
    if context.group.shards_tokens:
        raise ModelSourceError("This model has learned positions, which can't be added to shares of a step's tokens; leave out enable_sp.")
    if (longest := config.num_positions - config.first_position) < context.max_model_len:
        raise ModelSourceError(
            f"This model has learned {longest} positions, and no rule for more, but --max-model-len is {context.max_model_len}; lower that."
        )
    return Table(config.num_positions, config.hidden_size, dtype=context.dtype, device=context.device)
