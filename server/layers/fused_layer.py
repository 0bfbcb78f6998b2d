"""A decoder's layers as one kernel call, in steps where that is all the same as their parts one by one: one token a row. A model's
embedding, last norm and head can be in it too."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple
from weakref import ReferenceType, ref

from torch import Tensor

from headway.kernels.decoder_layer import (
    EndParts,
    FusedEnd,
    FusedLayer,
    FusedSlots,
    GroupedLinearParts,
    LayerParts,
    LayerSlots,
    LayerTokens,
    PlacedLayer,
    PlacedLayers,
    decoder_layers,
    fuse_end,
    fuse_layer,
    fuse_slots,
    layers_to_logits,
    place_layers,
    prepare_layers,
)
from headway.kernels.grouped_matmul import PackedGrouped
from headway.kernels.kv_cache import FP8
from headway.kernels.plans import LoraPlan
from headway.server.layers.attention import Attention, AttentionStep
from headway.server.layers.embedding import ParallelLMHead, VocabParallelEmbedding
from headway.server.layers.forward import ForwardBatch, HeadOutput, LayerKV
from headway.server.layers.linear import Linear
from headway.server.layers.norm import RMSNorm


class FusableLayer:
    """A loaded layer as the kernel takes it."""

    def __init__(self, layer: FusedLayer, rotation: int, linears: Sequence[Linear]) -> None:
        """``rotation``: which of the step's. ``linears`` are those that ``layer`` was made of."""
        self.layer = layer
        self.kind = (layer.parts.sliding_window, rotation)  # what layers must share to have one plan
        self._linears = linears

    @cached_property
    def adapters(self) -> FusedSlots | None:
        """Their room, which a layer has for as long as it is there; None where the kernel does not take them."""
        slots = [None if it.adapters is None else it.adapters.grouped_slots for it in self._linears]
        found = [it for it in slots if it is not None]
        return fuse_slots(self.layer, LayerSlots(*found)) if len(found) == len(slots) else None


def fusable_layer(
    input_norm: RMSNorm, qkv: Linear, attention: Attention, o: Linear, post_attention_norm: RMSNorm, gate_up: Linear, down: Linear
) -> FusableLayer | None:
    """Of loaded layers, gate_up followed by a SiLU gate; None where there is no such kernel for them."""
    linears = (qkv, o, gate_up, down)
    parts = [_grouped(linear) for linear in linears]
    if not attention.is_plain or any(part is None for part in parts):
        return None
    qkv_parts, o_parts, gate_up_parts, down_parts = (part for part in parts if part is not None)
    num_heads, num_kv_heads, _ = attention.head_counts
    layer = fuse_layer(
        LayerParts(
            input_norm=input_norm.loaded_weight,
            qkv=qkv_parts,
            o=o_parts,
            post_attention_norm=post_attention_norm.loaded_weight,
            gate_up=gate_up_parts,
            down=down_parts,
            eps=input_norm.eps,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=attention.head_dim,
            sliding_window=attention.window,
        )
    )
    return None if layer is None else FusableLayer(layer, attention.rotation, linears)


def fusable_end(embedding: VocabParallelEmbedding | None, norm: RMSNorm, head: ParallelLMHead) -> FusedEnd | None:
    """What is around a loaded model's layers; None where there is no such kernel for it, or logits are more than the product.
    ``embedding``: whose rows the first layer reads as they are, without adapters; None: it reads something else."""
    packed = head.plain_product
    if not isinstance(packed, PackedGrouped) or packed.order is not None:
        return None
    return fuse_end(EndParts(None if embedding is None else embedding.whole_table, norm.loaded_weight, packed, norm.eps))


class StepTokens(NamedTuple):
    """Of a step of one token a row: what LayerTokens has of it, of all kinds of layers."""

    tables: Sequence[Tensor]  # of the rotary embeddings among the layers
    positions: Tensor
    slot_mapping: Tensor
    block_tables: Tensor
    seq_lens: Tensor

    @classmethod
    def of_batch(cls, batch: ForwardBatch, tables: Sequence[Tensor]) -> StepTokens | None:
        """None where a row has more tokens."""
        if not batch.num_decodes or batch.num_decodes < len(batch.query_lens):
            return None
        return cls(tables, batch.positions, batch.slot_mapping, batch.block_tables, batch.seq_lens)

    @classmethod
    def of_step(cls, step: AttentionStep) -> StepTokens | None:
        if step.prefill is not None or step.decode is None:
            return None
        tables = [rotation.cos_sin for rotation in step.rotations]
        return cls(tables, step.positions, step.slot_mapping, step.decode.block_tables, step.decode.seq_lens)

    def lies_as(self, other: StepTokens | None) -> bool:
        """Whether both are the same tensors, whatever is in them now."""
        if other is None or self.positions is not other.positions or self.slot_mapping is not other.slot_mapping:
            return False
        return self.block_tables is other.block_tables and self.seq_lens is other.seq_lens


class FusedLayers:
    """Layers that follow each other. Remembers where their pages and their newest step's inputs are: a CPU's have their places."""

    def __init__(self, layers: Sequence[FusableLayer]) -> None:
        self._layers = layers
        self._of_kind = {layer.kind: layer.layer for layer in layers}
        self._pages: tuple[ReferenceType[Tensor], ReferenceType[Tensor]] | None = None  # the first's keys, the last's values
        self._placed: dict[bool, PlacedLayers] = {}  # by whether they have their adapters' room
        self._tokens: StepTokens | None = None
        self._plans: list[object] = []  # of those tokens, without adapters

    def fits(self, kv: Sequence[LayerKV], lora: LoraPlan | None) -> bool:
        """Whether a step of one token a row can be one call."""
        return kv[0].k.dtype != FP8 and (lora is None or all(layer.adapters is not None for layer in self._layers))

    def __call__(
        self, hidden: Tensor, residual: Tensor | None, kv: Sequence[LayerKV], tokens: StepTokens, lora: LoraPlan | None
    ) -> tuple[Tensor, Tensor]:
        """As the layers one after the other, in a step that ``fits``."""
        return decoder_layers(hidden, residual, self._place(kv, has_adapters=lora is not None), self._prepare(tokens, kv[0], lora))

    def to_logits(
        self, start: Tensor, kv: Sequence[LayerKV], tokens: StepTokens, lora: LoraPlan | None, end: FusedEnd, *, has_token_ids: bool
    ) -> tuple[Tensor, HeadOutput]:
        """Likewise of the layers to a model's last and what follows them: its hidden states, and what its head says of them. ``start``:
        what the first layer reads, or the token ids whose rows that is."""
        placed, plans = self._place(kv, has_adapters=lora is not None), self._prepare(tokens, kv[0], lora)
        hidden, logits, token_ids = layers_to_logits(start, placed, plans, end, has_token_ids=has_token_ids)
        return hidden, HeadOutput(logits, token_ids)

    def _prepare(self, tokens: StepTokens, kv: LayerKV, lora: LoraPlan | None) -> list[object]:
        """Where inputs lie decides about plans, and what they are does not: buffers that are filled anew have the plans that they had."""
        if lora is None and tokens.lies_as(self._tokens):
            return self._plans
        _, *others = tokens
        block_size = kv.k.shape[1]
        plans = [
            prepare_layers(layer, LayerTokens(tokens.tables[rotation], *others), block_size, lora)
            for (_, rotation), layer in self._of_kind.items()
        ]
        if lora is None:
            self._tokens, self._plans = tokens, plans
        return plans

    def _place(self, kv: Sequence[LayerKV], *, has_adapters: bool) -> PlacedLayers:
        """The pages of all layers come and go together: at the first step, behind a sleep."""
        first, last = kv[0].k, kv[-1].v
        if self._pages is None or self._pages[0]() is not first or self._pages[1]() is not last:
            self._pages, self._placed, self._tokens = (ref(first), ref(last)), {}, None
        if has_adapters not in self._placed:
            kinds = list(self._of_kind)
            self._placed[has_adapters] = place_layers(
                [
                    PlacedLayer(it.layer, it.adapters if has_adapters else None, own.k, own.v, kinds.index(it.kind))
                    for it, own in zip(self._layers, kv, strict=True)
                ]
            )
        return self._placed[has_adapters]


def _grouped(linear: Linear) -> GroupedLinearParts | None:
    """None for another kind of weight, one whose columns have an order, and a part of one whose other parts are on other ranks."""
    packed = linear.packed
    is_plain = isinstance(packed, PackedGrouped) and packed.order is None and linear.is_whole
    return GroupedLinearParts(packed, linear.packed_bias) if is_plain else None
