"""A decoder's layers as one kernel call, in steps where that is all the same as their parts one by one: one token a row."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from headway.kernels.decoder_layer import (
    FusedLayer,
    FusedSlots,
    GroupedLinearParts,
    LayerParts,
    LayerSlots,
    LayerTokens,
    PlacedLayer,
    PlacedLayers,
    decoder_layers,
    fuse_layer,
    fuse_slots,
    place_layers,
    prepare_layers,
)
from headway.kernels.grouped_matmul import PackedGrouped
from headway.kernels.kv_cache import FP8
from headway.kernels.plans import LoraPlan
from headway.server.layers.attention import Attention, AttentionStep, DecodeRows
from headway.server.layers.forward import LayerKV
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


class FusedLayers:
    """Layers that follow each other. Remembers where their pages are, and does not keep them."""

    def __init__(self, layers: Sequence[FusableLayer]) -> None:
        self._layers = layers
        self._of_kind = {layer.kind: layer.layer for layer in layers}
        self._pages: list[tuple[int, int]] = []
        self._placed: dict[bool, PlacedLayers] = {}  # by whether they have their adapters' room

    def fits(self, kv: Sequence[LayerKV], step: AttentionStep, lora: LoraPlan | None) -> bool:
        """Whether a step of theirs can be one call."""
        is_plain = step.prefill is None and step.decode is not None and kv[0].k.dtype != FP8
        return is_plain and (lora is None or all(layer.adapters is not None for layer in self._layers))

    def __call__(
        self, hidden: Tensor, residual: Tensor | None, kv: Sequence[LayerKV], step: AttentionStep, lora: LoraPlan | None
    ) -> tuple[Tensor, Tensor]:
        """As the layers one after the other, in a step that ``fits``."""
        assert step.decode is not None, "the step fits"
        plans = [self._plan(kind, kv[0], step, step.decode, lora) for kind in self._of_kind]
        return decoder_layers(hidden, residual, self._place(kv, has_adapters=lora is not None), plans)

    def _plan(self, kind: tuple[int, int], kv: LayerKV, step: AttentionStep, rows: DecodeRows, lora: LoraPlan | None) -> object:
        if kind not in rows.layer_plans:
            cos_sin = step.rotations[kind[1]].cos_sin
            tokens = LayerTokens(cos_sin, step.positions, step.slot_mapping, rows.block_tables, rows.seq_lens)
            rows.layer_plans[kind] = prepare_layers(self._of_kind[kind], tokens, kv.k.shape[1], lora)
        return rows.layer_plans[kind]

    def _place(self, kv: Sequence[LayerKV], *, has_adapters: bool) -> PlacedLayers:
        pages = [(it.k.data_ptr(), it.v.data_ptr()) for it in kv]
        if pages != self._pages:  # the first step, or one behind a sleep
            self._pages, self._placed = pages, {}
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
