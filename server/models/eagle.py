"""An EAGLE head as it computes: its layer over the embedding of each next token and the model's hidden state before it."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from headway.kernels.plans import LoraPlan
from headway.server.layers.attention import AttentionStep, prepare_attention
from headway.server.layers.embedding import ParallelLMHead, VocabParallelEmbedding
from headway.server.layers.forward import ForwardBatch, LayerKV
from headway.server.layers.linear import ReplicatedLinear, kv_heads_per_rank
from headway.server.layers.norm import RMSNorm
from headway.server.layers.rotary import rope_table
from headway.server.layers.weight import Layer
from headway.server.models.base import BuildContext, DecoderConfig, KVSpec
from headway.server.models.decoder import DecoderBranches, DecoderModel
from headway.server.models.decoder_norms import stream_norm
from headway.server.models.eagle_config import EagleConfig
from headway.server.models.taps import LayerTaps


class EagleLayer(DecoderBranches):
    """EAGLE's: without a norm before attention. ``hidden`` is what ``fc`` made of embedding and hidden state; there is no residual yet."""

    def __init__(self, config: DecoderConfig, context: BuildContext) -> None:
        super().__init__(config, 0, context)
        self.post_attention_norm = stream_norm(config, context)

    def __call__(
        self, hidden: Tensor, residual: Tensor | None, kv: LayerKV, step: AttentionStep, lora: LoraPlan | None
    ) -> tuple[Tensor, Tensor]:
        branch, residual = self.post_attention_norm.add(self.attend(hidden, kv, step, lora), hidden)
        return self.feed_forward(branch, step, lora), residual


class Eagle3Layer(DecoderBranches):
    """EAGLE-3's: attention reads the normed embedding ``hidden`` beside the normed ``residual``, which is the hidden state."""

    num_attended = 2

    def __init__(self, config: EagleConfig, context: BuildContext) -> None:
        super().__init__(config.layer, 0, context)
        self.input_norm = stream_norm(config.layer, context)
        self.hidden_norm = stream_norm(config.layer, context)
        self.post_attention_norm = stream_norm(config.layer, context)
        self._adds_to_normed = config.norm_before_residual

    def __call__(
        self, hidden: Tensor, residual: Tensor | None, kv: LayerKV, step: AttentionStep, lora: LoraPlan | None
    ) -> tuple[Tensor, Tensor]:
        assert residual is not None, "the hidden state"
        normed = self.hidden_norm(residual)
        branch = self.attend(torch.cat((self.input_norm(hidden), normed), dim=-1), kv, step, lora)
        branch, residual = self.post_attention_norm.add(branch, normed if self._adds_to_normed else residual)
        return self.feed_forward(branch, step, lora), residual


class EagleHead(Layer):
    """A Model (models/base.py) of one layer. The token at place t of a sequence is the one at t + 1 of the text, and ``features`` [T, H]
    hold what the model, or this head in its place, said of the text up to t: to be filled before each ``forward``.

    It shares the embedding of its model, EAGLE its head too: both are that model's, and not among these weights."""

    def __init__(self, config: EagleConfig, context: BuildContext, target: DecoderModel, max_tokens: int) -> None:
        """``max_tokens``: of a step of either."""
        layer, hidden = config.layer, config.layer.hidden_size
        dtype, device = context.dtype, context.device
        assert target.embed_tokens is not None, "a model of one stage"
        num_read = len(config.tapped) or 2  # hidden states, or an embedding and one of them
        self.fc = ReplicatedLinear(num_read * hidden, hidden, bias=config.has_fc_bias, method=context.method)
        self.kv_spec = KVSpec(1, kv_heads_per_rank(layer.num_kv_heads, context.group), layer.head_dim)
        # At one place for all steps, where CUDA graphs find it.
        self.features = torch.zeros(max_tokens, hidden, dtype=dtype, device=device)
        self._embed, self._logits = target.embed_tokens.__call__, target.logits
        self._rope = rope_table(layer.rope, context.max_model_len, device)
        self._taps: LayerTaps | None = None
        self._target_ids: Tensor | None = None
        if config.method == "eagle":
            self.layers: list[DecoderBranches] = [EagleLayer(layer, context)]
            return
        self._taps = target.taps = LayerTaps(config.tapped, max_tokens, hidden, dtype=dtype, device=device)
        self.layers = [Eagle3Layer(config, context)]
        self.norm = stream_norm(layer, context)
        self._reads_normed = config.norm_output
        norm = partial(RMSNorm, eps=layer.norm_eps, dtype=dtype, device=device)
        self.read_norm = norm(num_read * hidden) if config.norm_before_fc else None
        self.read_norms = [norm(hidden) for _ in config.tapped] if config.fc_norm else []
        if config.has_embedding:
            self.embed_tokens = VocabParallelEmbedding(layer.vocab_size, hidden, dtype=dtype, device=device, group=context.group)
            self._embed = self.embed_tokens.__call__
        if config.has_head:
            self.lm_head = ParallelLMHead(config.draft_vocab_size, hidden, tied_to=None, method=context.method, group=context.group)
            self._logits = self.lm_head.__call__

    def set_target_ids(self, target_ids: Tensor) -> None:
        """[draft_vocab_size] int64: the model's token of each that the head can guess."""
        self._target_ids = target_ids

    def features_of(self, hidden: Tensor) -> Tensor:
        """hidden [T, H] of the model's newest step -> what the head reads of its tokens, [T, H]."""
        if self._taps is None:
            return hidden
        read = self._taps.of(len(hidden))
        if self.read_norm is not None:
            read = self.read_norm(read)
        if self.read_norms:
            parts = read.chunk(len(self.read_norms), dim=-1)
            read = torch.cat([norm(part) for norm, part in zip(self.read_norms, parts, strict=True)], dim=-1)
        return self.fc(read)

    def forward(self, token_ids: Tensor, kv: list[LayerKV], batch: ForwardBatch) -> Tensor:
        """See Model; what comes back are the features that the head expects of the tokens: in most heads before its norm, if it has one."""
        step = prepare_attention(batch, [self._rope], (0,), kv[0])
        embedded, features = self._embed(token_ids), self.features[: len(token_ids)]
        if self._taps is None:
            hidden, residual = self.layers[0](self.fc(torch.cat((embedded, features), dim=-1)), None, kv[0], step, None)
            return hidden + residual
        hidden, residual = self.layers[0](embedded, features, kv[0], step, None)
        return self.norm.add(hidden, residual)[0] if self._reads_normed else hidden + residual

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [L, H] -> [L, draft_vocab_size] fp32."""
        return self._logits(hidden if self._taps is None or self._reads_normed else self.norm(hidden))

    def likeliest(self, hidden: Tensor) -> Tensor:
        """hidden [L, H] -> [L] int64, tokens of the model."""
        best = self.logits(hidden).argmax(dim=-1)
        return best if self._target_ids is None else self._target_ids[best]
