"""The decoder that Llama, Mistral, Qwen2, Qwen3 and SmolLM are shapes of: pre-norm attention and a gated feed-forward layer."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from headway.kernels.decoder_layer import FusedLayer
from headway.kernels.kv_cache import FP8
from headway.kernels.plans import LoraPlan
from headway.server.layers.activation import GATED_ACTIVATIONS
from headway.server.layers.attention import Attention, AttentionStep, prepare_attention
from headway.server.layers.embedding import ParallelLMHead, VocabParallelEmbedding
from headway.server.layers.forward import ForwardBatch, LayerKV
from headway.server.layers.fused_layer import fused_layer, run_fused
from headway.server.layers.linear import MergedColumnParallelLinear, QKVParallelLinear, RowParallelLinear
from headway.server.layers.norm import RMSNorm
from headway.server.layers.rotary import rope_table
from headway.server.layers.weight import Layer
from headway.server.models.base import BuildContext, DecoderConfig, KVSpec


class DecoderLayer(Layer):
    """One layer. The residual stream is carried beside the branch's output, so that its addition is fused with the next norm."""

    def __init__(self, config: DecoderConfig, index: int, context: BuildContext) -> None:
        method, group, hidden = context.method, context.group, config.hidden_size
        self._group = group

        def norm(size: int) -> RMSNorm:
            return RMSNorm(size, config.rms_norm_eps, dtype=context.dtype, device=context.device)

        self.input_norm = norm(hidden)
        self.qkv = QKVParallelLinear(
            hidden, config.num_heads, config.num_kv_heads, config.head_dim, bias=config.qkv_bias, method=method, group=group
        )
        self.attention = Attention(
            self.qkv.num_heads,
            self.qkv.num_kv_heads,
            config.head_dim,
            sliding_window=config.sliding_window(index),
            q_norm=norm(config.head_dim) if config.qk_norm else None,
            k_norm=norm(config.head_dim) if config.qk_norm else None,
            context=group.context,
        )
        self.o = RowParallelLinear(config.num_heads * config.head_dim, hidden, bias=config.o_bias, method=method, group=group)
        self.post_attention_norm = norm(hidden)
        sizes = {"gate": config.intermediate_size, "up": config.intermediate_size}
        self.gate_up = MergedColumnParallelLinear(hidden, sizes, bias=config.mlp_bias, method=method, group=group)
        gated = method.for_gated_input()
        self.down = RowParallelLinear(config.intermediate_size, hidden, bias=config.mlp_bias, method=gated, group=group)
        self._activation = GATED_ACTIVATIONS[config.hidden_act]
        self._is_silu = config.hidden_act == "silu"

    def __call__(
        self, hidden: Tensor, residual: Tensor | None, kv: LayerKV, step: AttentionStep, lora: LoraPlan | None
    ) -> tuple[Tensor, Tensor]:
        """(branch output, residual) [T, H] each, or this rank's rows of them; the layer's value is their sum. ``residual`` is None before
        the first layer.

        The inputs are given up to the call, which may write its outputs over them."""
        is_fusable = step.prefill is None and lora is None and kv.k.dtype != FP8
        if is_fusable and step.decode is not None and self._fused is not None:
            return run_fused(self._fused, hidden, residual, kv, step, step.decode)
        if residual is None:
            residual, hidden = hidden, self.input_norm(hidden)
        else:
            hidden, residual = self.input_norm.add(hidden, residual)
        num_tokens = len(step.positions)
        hidden = self._group.all_rows(hidden, num_tokens)
        hidden = self.o(self.attention(self.qkv(hidden, lora), kv, step), lora)
        hidden, residual = self.post_attention_norm.add(hidden, residual)
        hidden = self._group.all_rows(hidden, num_tokens)
        return self.down(self._activation(self.gate_up(hidden, lora)), lora), residual

    @cached_property
    def _fused(self) -> FusedLayer | None:
        """All of the above in one call, of the loaded layer."""
        if not self._is_silu:
            return None
        return fused_layer(self.input_norm, self.qkv, self.attention, self.o, self.post_attention_norm, self.gate_up, self.down)


class Decoder(Layer):
    """All of the model but what stands on its hidden states: see models/base.py Model."""

    def __init__(self, config: DecoderConfig, context: BuildContext) -> None:
        vocab_size, hidden = config.vocab_size, config.hidden_size
        self.embed_tokens = VocabParallelEmbedding(vocab_size, hidden, dtype=context.dtype, device=context.device, group=context.group)
        self.layers = [DecoderLayer(config, i, context) for i in range(config.num_layers)]
        self.norm = RMSNorm(hidden, config.rms_norm_eps, dtype=context.dtype, device=context.device)
        self.kv_spec = KVSpec(config.num_layers, self.layers[0].qkv.num_kv_heads, config.head_dim)
        self._windows = tuple(sorted({config.sliding_window(i) for i in range(config.num_layers)}))
        self._group = context.group
        self._cos_sin = rope_table(config.rope, context.max_model_len, context.device)

    def forward(self, token_ids: Tensor, kv: list[LayerKV], batch: ForwardBatch) -> Tensor:
        step = prepare_attention(batch, self._cos_sin, self._windows, kv[0], self._group.context)
        hidden, residual = self.embed_tokens(token_ids), None
        for layer, pages in zip(self.layers, kv, strict=True):
            hidden, residual = layer(hidden, residual, pages, step, batch.lora)
        assert residual is not None, "a decoder has at least one layer"
        return self._group.all_rows(self.norm.add(hidden, residual)[0], len(token_ids))


class DecoderModel(Decoder):
    """One that says which token is next."""

    def __init__(self, config: DecoderConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.lm_head = ParallelLMHead(
            config.vocab_size,
            config.hidden_size,
            tied_to=self.embed_tokens if config.tie_word_embeddings else None,
            method=context.method,
            group=context.group,
        )

    def logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)

    def local_logits(self, hidden: Tensor) -> Tensor:
        """hidden [L, H] -> this rank's columns of ``logits``: see ParallelLMHead.local."""
        return self.lm_head.local(hidden)
