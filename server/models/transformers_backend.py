"""A decoder whose modules are `transformers`' own, over our pages, our attention and our linear layers (models/base.py Model)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from headway.kernels.plans import LoraPlan
from headway.server.distributed.groups import SINGLE
from headway.server.distributed.places import WHOLE
from headway.server.errors import ModelSourceError
from headway.server.layers.embedding import ParallelLMHead, VocabParallelEmbedding
from headway.server.layers.experts import ExpertStore
from headway.server.layers.forward import ForwardBatch, LayerKV
from headway.server.layers.linear import Linear, split_evenly
from headway.server.layers.quant.unquantized import UnquantizedLinear
from headway.server.layers.weight import Layer
from headway.server.models.base import BuildContext, KVSpec
from headway.server.models.expert_names import ExpertStack
from headway.server.models.mixture import routed_experts
from headway.server.models.names import WeightName
from headway.server.models.transformers_attention import STEP, PagedAttention
from headway.server.models.transformers_code import empty_model, fill_buffers, is_exact, split_styles
from headway.server.models.transformers_config import TransformersConfig
from headway.server.models.transformers_experts import ExpertsModule, FoundExperts, find_experts, is_router, stacked_elsewhere
from headway.server.models.transformers_layers import (
    EmbeddingModule,
    HeadModule,
    KeptTensor,
    LinearModule,
    StepAdapters,
    make_linear,
)

log = logging.getLogger(__name__)


class TransformersModel(Layer):
    """``names`` say which tensor of a checkpoint fills which weight; they follow from the modules, so each model has its own."""

    def __init__(self, config: TransformersConfig, context: BuildContext) -> None:
        _check(config, context)
        self.linears: dict[str, Linear] = {}
        self.experts: dict[str, ExpertStore] = {}
        self.kept: dict[str, KeptTensor] = {}
        self.embed_tokens: VocabParallelEmbedding | None = None
        self.names: list[WeightName] = []
        self.stacks: list[ExpertStack] = []
        self.causal = empty_model(config, context.max_model_len)
        self._context = context
        self._adapters = StepAdapters()
        self._attention = PagedAttention(context)
        self._body: nn.Module = self.causal.base_model
        self._replay = _Replay()
        self._vocab_size = config.vocab_size
        group = context.group
        self.kv_spec = KVSpec(config.num_layers, config.num_kv_heads // group.size, config.head_dim)
        fill_buffers(self.causal, context.device)
        self._adopt_vocabulary(config)
        experts = find_experts(self.causal)
        if left := stacked_elsewhere(self.causal, experts):
            _check_left(config, context, left[0])
        styles = split_styles(self.causal, config, group.size, experts)
        self._adopt_linears(styles, experts)
        self._adopt_experts(config, experts)
        self._adopt_others(styles)

    def forward(self, token_ids: Tensor, kv: list[LayerKV], batch: ForwardBatch) -> Tensor:
        step = self._attention.begin(batch, kv)
        self._adapters.plan = batch.lora
        out = self._body(
            input_ids=token_ids.unsqueeze(0), position_ids=batch.positions.unsqueeze(0), use_cache=False, return_dict=True, **{STEP: step}
        )
        step.end()
        hidden: Tensor = out.last_hidden_state.squeeze(0)
        return hidden

    def logits(self, hidden: Tensor, lora: LoraPlan | None = None) -> Tensor:
        """See Model. ``lora``: the adapters of these hidden states, None for none."""
        return self._logits(hidden, lora, is_local=False)

    def local_logits(self, hidden: Tensor, lora: LoraPlan | None = None) -> Tensor:
        """hidden [L, H] -> this rank's columns of ``logits``: see ParallelLMHead.local."""
        logits, group = self._logits(hidden, lora, is_local=True), self._context.group
        # Once more: a cap has made numbers of what was behind the vocabulary.
        logits[:, max(self._vocab_size - group.rank * logits.shape[1], 0) :] = -torch.inf
        return logits

    def _logits(self, hidden: Tensor, lora: LoraPlan | None, *, is_local: bool) -> Tensor:
        """By the model's own forward on hidden states that are there: it may scale or bend what the head gives."""
        self._head.is_local = is_local
        self._adapters.plan = lora
        self._replay.hidden = hidden.unsqueeze(0)
        prefix = self.causal.base_model_prefix
        setattr(self.causal, prefix, self._replay)
        try:
            logits: Tensor = self.causal(input_ids=None, use_cache=False, return_dict=True).logits
        finally:
            setattr(self.causal, prefix, self._body)
            self._replay.hidden = None
        return logits.squeeze(0).float()

    def _adopt_vocabulary(self, config: TransformersConfig) -> None:
        """The table of tokens, and the head over it."""
        causal, context = self.causal, self._context
        table, head = causal.get_input_embeddings(), causal.get_output_embeddings()
        bias: Tensor | None = getattr(head, "bias", None)
        is_ours = type(table) is nn.Embedding
        is_split, is_tied = context.group.size > 1, bool(causal.config.tie_word_embeddings)
        if type(head) is not nn.Linear or (is_split and bias is not None):
            raise ModelSourceError(f"{config.model_class} has a head that can't be served so: {head}; leave --tensor-parallel-size out.")
        vocab_size, hidden_size = head.weight.shape
        if is_ours:
            self.embed_tokens = VocabParallelEmbedding(
                vocab_size, hidden_size, dtype=context.dtype, device=context.device, group=context.group
            )
        elif is_split and is_tied:
            raise ModelSourceError(f"{config.model_class} has a table that can't be split with its head: leave --tensor-parallel-size out.")
        tied_to = self.embed_tokens if is_tied else None
        own = ParallelLMHead(vocab_size, hidden_size, tied_to=tied_to, method=context.method, group=context.group)
        self._head = HeadModule(own, bias, self._adapters)
        head_name = self._replace(head, self._head)
        if bias is not None:
            self._keep(self._head, "bias", f"{head_name}.bias")
        if self.embed_tokens is not None:
            name = self._replace(table, EmbeddingModule(self.embed_tokens, self._adapters))
            self.names.append(WeightName(f"{name}.weight", "embed_tokens.weight"))
        elif is_tied:
            own.weight = None
            self._keep(table, "weight", f"{self._name_of(table)}.weight", partial(_keep_tied, own))
        self.lm_head = own
        self.names.append(WeightName(f"{head_name}.weight", "lm_head.weight"))  # a tied one has no weight; adapters call it so

    def _adopt_experts(self, config: TransformersConfig, experts: list[FoundExperts]) -> None:
        """Those that ours can stand for."""
        context = self._context
        for found in experts:
            if found.num_experts != config.num_experts:
                raise ModelSourceError(
                    f"{config.model_class} has {found.num_experts} experts in {found.name}, and its config.json speaks of "
                    f"{config.num_experts}: a model is served through transformers where all layers have as many as it says."
                )
            self.experts[found.name] = routed_experts(found.shape, found.num_experts, context)
            self._replace(found.module, ExpertsModule(self.experts[found.name], context.group))
            self.names += found.names
            self.stacks += found.stacks

    def _adopt_linears(self, styles: dict[str, str], experts: list[FoundExperts]) -> None:
        context = self._context
        found = [(name, module) for name, module in self.causal.named_modules() if type(module) is nn.Linear]
        for name, module in found:
            if name not in styles and is_router(module, name, experts):
                continue
            style = styles.get(name, "")
            self.linears[name] = linear = make_linear(module, style, context.method, context.group)
            gathers, splits = style.endswith("_gather_output"), style.endswith("_split_input")
            self._replace(module, LinearModule(linear, self._adapters, context.group, gathers=gathers, splits=splits))
            kinds = ("weight", "bias") if module.bias is not None else ("weight",)
            self.names += [WeightName(f"{name}.{kind}", f"linears.{name}.{kind}") for kind in kinds]

    def _adopt_others(self, styles: dict[str, str]) -> None:
        """Norms, and whatever else has tensors; buffers too, where checkpoints have them."""
        state = self.causal.state_dict(keep_vars=True)
        for module_name, module in self.causal.named_modules():
            for name in [*module._parameters, *module._buffers]:
                full = f"{module_name}.{name}" if module_name else name
                tensor = getattr(module, name)
                if full in state and full not in self.kept and tensor is not None:
                    self._keep(module, name, full, is_cut=styles.get(full) == "colwise")

    def _keep(
        self, module: nn.Module, name: str, checkpoint: str, then: Callable[[Tensor], int] | None = None, *, is_cut: bool = False
    ) -> None:
        tensor = getattr(module, name)
        dtype = tensor.dtype
        if tensor.is_floating_point():
            dtype = torch.float32 if is_exact(self.causal, checkpoint, self._context.dtype) else self._context.dtype
        group = self._context.group if is_cut else SINGLE
        self.kept[checkpoint] = KeptTensor(module, name, dtype, self._context.device, then, group)
        self.names.append(WeightName(checkpoint, f"kept.{checkpoint}.weight"))

    def _replace(self, module: nn.Module, ours: nn.Module) -> str:
        """Returns its name."""
        name = self._name_of(module)
        parent, _, attribute = name.rpartition(".")
        setattr(self.causal.get_submodule(parent), attribute, ours)
        return name

    def _name_of(self, module: nn.Module) -> str:
        modules: Iterable[tuple[str, nn.Module]] = self.causal.named_modules()
        return next(name for name, found in modules if found is module)


def _keep_tied(head: ParallelLMHead, table: Tensor) -> int:
    """Bytes beside the table's."""
    num_bytes = head.keep(table)
    return 0 if head.shares(table) else num_bytes


class _Replay(nn.Module):
    """Stands where the body is while the head's part of the model's forward runs."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Tensor | None = None

    def forward(self, *_: Any, **__: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

        out = BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self.hidden)
        out.router_logits = None  # which the heads of mixtures hand on
        return out


def _check_left(config: TransformersConfig, context: BuildContext, tensor: str) -> None:
    """Of experts, by one of their tensors, that are no kind of ours. Raises ModelSourceError for what would have to reach into them."""
    is_rounded = not isinstance(context.method, UnquantizedLinear)
    if context.group.size > 1 or is_rounded:
        option = "--quantization" if is_rounded else "--tensor-parallel-size"
        raise ModelSourceError(
            f"{config.model_class} has experts that only transformers can compute ({tensor}), whole and as they are: leave {option} out"
            f"{', or set it to none' if is_rounded else ''}."
        )
    log.info("Experts are computed by transformers' own code, since their feed-forward layers are of no kind that Headway's product has")


def _check(config: TransformersConfig, context: BuildContext) -> None:
    """Raises ModelSourceError for what an engine can do and transformers' modules can't."""
    assert context.stage == WHOLE, "stages are refused with the options"
    if context.group.shards_tokens:
        raise ModelSourceError("A model served through transformers can't share a step's tokens between ranks: leave out enable_sp.")
    split_evenly(config.num_heads, context.group, "the number of attention heads")
    if config.num_kv_heads % context.group.size:
        raise ModelSourceError(
            f"Through transformers each device needs key-value heads of its own, and this model has {config.num_kv_heads}: "
            "use a divisor of that for --tensor-parallel-size."
        )
