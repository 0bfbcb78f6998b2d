"""A fused layer against its operations one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from grouped_lora_comparisons import Adapters, make_adapters, plan_of
from matmul_comparisons import assert_close, packed_by
from torch import Tensor

from headway.kernels.cpu import decoder_layer, grouped_matmul, norm, sampling
from headway.kernels.cpu.native.library import library
from headway.kernels.decoder_layer import (
    EndParts,
    FusedEnd,
    FusedLayer,
    GroupedLinearParts,
    LayerParts,
    LayerSlots,
    LayerTokens,
    PlacedLayer,
    decoder_layers,
    fuse_slots,
    layers_to_logits,
    place_layers,
    prepare_layers,
)
from headway.kernels.grouped_layout import round_to_groups
from headway.kernels.grouped_matmul import PackedGrouped
from headway.kernels.kv_cache import INT8, UNSCALED, int8_blocks
from headway.kernels.plans import LoraPlan
from headway.kernels.reference import decoder_layer as reference
from headway.kernels.reference.rope import round_int8
from headway.server.layers.forward import LayerKV

HIDDEN, INNER, BLOCK_SIZE, NUM_BLOCKS = 72, 100, 4, 24


def make_parts(num_heads: int, num_kv_heads: int, head_dim: int, *, has_bias: bool, window: int) -> LayerParts:
    generator = torch.Generator().manual_seed(num_heads)

    def linear(rows: int, columns: int) -> GroupedLinearParts:
        weight = round_to_groups(torch.randn(rows, columns, generator=generator) / columns**0.5)
        bias = torch.randn(rows, generator=generator) if has_bias else None
        return GroupedLinearParts(PackedGrouped(rows, columns, 0, packed_by(grouped_matmul, weight), grouped_matmul), bias)

    def norm() -> Tensor:
        return torch.rand(HIDDEN, generator=generator) + 0.5

    return LayerParts(
        input_norm=norm(),
        qkv=linear((num_heads + 2 * num_kv_heads) * head_dim, HIDDEN),
        o=linear(HIDDEN, num_heads * head_dim),
        post_attention_norm=norm(),
        gate_up=linear(2 * INNER, HIDDEN),
        down=linear(HIDDEN, INNER),
        eps=1e-5,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        sliding_window=window,
    )


def make_tokens(seq_lens: list[int], rotary_dim: int) -> LayerTokens:
    generator = torch.Generator().manual_seed(len(seq_lens))
    angle = torch.randn(max(64, *seq_lens), rotary_dim // 2, generator=generator)
    width = max(-(-n // BLOCK_SIZE) for n in seq_lens)
    tables = torch.randperm(max(NUM_BLOCKS, len(seq_lens) * width), generator=generator)[: len(seq_lens) * width].view(-1, width).int()
    positions = torch.tensor(seq_lens) - 1
    blocks = tables[torch.arange(len(seq_lens)), positions // BLOCK_SIZE]
    slots = blocks * BLOCK_SIZE + positions % BLOCK_SIZE
    slots[-1:] = -1 if len(seq_lens) > 3 else slots[-1:]  # a token that is not kept
    return LayerTokens(torch.cat([angle.cos(), angle.sin()], dim=1), positions, slots, tables, torch.tensor(seq_lens, dtype=torch.int32))


def make_adapters_of_layer() -> list[Adapters]:
    """In three slots, of the linears of a layer with 4 + 2 heads of 16."""
    shapes = ((HIDDEN, (64, 32, 32)), (64, (HIDDEN,)), (HIDDEN, (INNER, INNER)), (INNER, (HIDDEN,)))
    return [make_adapters(in_features, lengths, (16, 8, 5)) for in_features, lengths in shapes]


def make_pages(shape: tuple[int, int, int, int], dtype: torch.dtype) -> LayerKV:
    """Alike whenever it is called."""
    generator = torch.Generator().manual_seed(1)
    numbers = [torch.randn(shape, generator=generator) for _ in range(2)]
    if dtype != INT8:
        return LayerKV(*(part.to(dtype) for part in numbers))
    keys, values = (torch.zeros(int8_blocks(*shape), dtype=INT8) for _ in range(2))
    pages = LayerKV.of_int8_blocks(keys, values, *shape[1:])
    assert pages.scales is not None
    for part, own, scales in zip(numbers, (pages.k, pages.v), (pages.scales.k, pages.scales.v), strict=True):
        rounded, factors = round_int8(part)
        own.copy_(rounded)
        scales.copy_(factors)
    return pages


def numbers_of(pages: LayerKV) -> tuple[Tensor, Tensor]:
    if pages.scales is None:
        return pages.k.float(), pages.v.float()
    return pages.k * pages.scales.k[..., None], pages.v * pages.scales.v[..., None]


@pytest.mark.parametrize("page_dtype", [torch.float32, torch.bfloat16, INT8], ids=str)
@pytest.mark.parametrize("is_first", [False, True])
@pytest.mark.parametrize(
    ("heads", "rotary_dim", "has_bias", "window", "seq_lens"),
    [
        ((6, 2, 16), 16, False, 0, [1]),
        ((3, 3, 20), 12, True, 0, [9, 1, 14]),
        ((4, 1, 64), 64, False, 5, [7, 12, 3, 5]),
        ((2, 1, 128), 128, True, 0, [17, 6]),
    ],
)
def test_equals_its_operations(
    heads: tuple[int, int, int], rotary_dim: int, has_bias: bool, window: int, seq_lens: list[int], is_first: bool, page_dtype: torch.dtype
) -> None:
    parts, tokens = make_parts(*heads, has_bias=has_bias, window=window), make_tokens(seq_lens, rotary_dim)
    if library() is None:
        assert decoder_layer.fuse_layer(parts) is None
        pytest.skip("the CPU kernels were not built")
    generator = torch.Generator().manual_seed(0)
    hidden, residual = (torch.randn(len(seq_lens), HIDDEN, generator=generator) for _ in range(2))
    pages = make_pages((NUM_BLOCKS, BLOCK_SIZE, heads[1], heads[2]), page_dtype)
    wanted_pages = make_pages((NUM_BLOCKS, BLOCK_SIZE, heads[1], heads[2]), page_dtype)
    scales = wanted_pages.scales or UNSCALED
    first = None if is_first else residual.clone()
    expected = reference.decoder_layer(hidden.clone(), first, parts, wanted_pages.k, wanted_pages.v, tokens, scales)

    fused = FusedLayer(parts, decoder_layer.fuse_layer(parts), decoder_layer)
    plan = prepare_layers(fused, tokens, BLOCK_SIZE)
    placed = place_layers([PlacedLayer(fused, None, pages.k, pages.v, 0)])
    found = decoder_layers(hidden.clone(), None if is_first else residual.clone(), placed, [plan])
    # An activation next to the middle of two steps may be rounded to the other one: 1 / 127 of its group's largest.
    for actual, wanted in zip(found, expected, strict=True):
        assert_close(actual, wanted, error=3000)
        assert (actual - wanted).abs().mean() < 3e-4 * wanted.abs().mean()
    for page, wanted in zip(numbers_of(pages), numbers_of(wanted_pages), strict=True):
        step = wanted.abs().max() / 127 if page_dtype == INT8 else 0.0
        torch.testing.assert_close(page, wanted, atol=1e-3 + float(step), rtol=1e-4 if page_dtype == torch.float32 else 8e-3)


def test_rows_that_share_pages_have_the_bits_of_each_alone(one_thread: None) -> None:
    parts, tokens = make_parts(6, 2, 16, has_bias=False, window=0), make_tokens([270, 275, 271, 400], 16)
    if library() is None:
        pytest.skip("the CPU kernels were not built")
    shared = 256 // BLOCK_SIZE
    tokens.block_tables[1:, :shared] = tokens.block_tables[0, :shared]
    hidden = torch.randn(4, HIDDEN, generator=torch.Generator().manual_seed(0))
    fused = FusedLayer(parts, decoder_layer.fuse_layer(parts), decoder_layer)

    def result(rows: slice) -> Tensor:
        own = LayerTokens(
            tokens.cos_sin, *(it[rows] for it in (tokens.positions, tokens.slot_mapping, tokens.block_tables, tokens.seq_lens))
        )
        pages = make_pages((int(tokens.block_tables.max()) + 1, BLOCK_SIZE, 2, 16), torch.bfloat16)
        placed = place_layers([PlacedLayer(fused, None, pages.k, pages.v, 0)])
        return decoder_layers(hidden[rows].clone(), None, placed, [prepare_layers(fused, own, BLOCK_SIZE)])[0]

    found = result(slice(0, 4))
    for row in range(4):
        assert found[row : row + 1].equal(result(slice(row, row + 1))), row


@pytest.mark.parametrize("is_first", [False, True])
@pytest.mark.parametrize("slots", [[0], [2, -1, 0, 1], [0, 1, 2] * 3, [2] * 40 + [-1] + [1] * 8], ids=lambda slots: str(len(slots)))
def test_equals_its_operations_with_adapters(slots: list[int], is_first: bool) -> None:
    parts, tokens = make_parts(4, 2, 16, has_bias=True, window=0), make_tokens([3] * len(slots), 16)
    if library() is None:
        pytest.skip("the CPU kernels were not built")
    made = make_adapters_of_layer()
    lora = plan_of(slots)
    generator = torch.Generator().manual_seed(0)
    hidden, residual = (torch.randn(len(slots), HIDDEN, generator=generator) for _ in range(2))
    pages = torch.randn(2, NUM_BLOCKS * 3, BLOCK_SIZE, 2, 16, generator=generator)

    def inputs() -> tuple[Tensor, Tensor | None]:
        return hidden.clone(), None if is_first else residual.clone()

    def kv() -> tuple[Tensor, Tensor]:
        keys, values = pages.clone()
        return keys, values

    plain = LayerSlots(*(adapters.plain for adapters in made))
    expected = reference.decoder_layer(*inputs(), parts, *kv(), tokens, adapters=(plain, lora))
    fused = FusedLayer(parts, decoder_layer.fuse_layer(parts), decoder_layer)
    own = fuse_slots(fused, LayerSlots(*(adapters.slots for adapters in made)))

    def run(lora: LoraPlan | None) -> tuple[Tensor, Tensor]:
        keys, values = kv()
        placed = place_layers([PlacedLayer(fused, own, keys, values, 0)])
        return decoder_layers(*inputs(), placed, [prepare_layers(fused, tokens, BLOCK_SIZE, lora)])

    found, without = run(lora), run(None)
    for actual, wanted, other in zip(found, expected, without, strict=True):
        has_adapter = torch.tensor(slots) >= 0
        assert actual[~has_adapter].equal(other[~has_adapter]), "a row without an adapter is computed as it is without the option"
        assert_close(actual, wanted, error=6000)
        assert (actual - wanted).abs().mean() < 1e-3 * wanted.abs().mean()
        assert (actual - other)[has_adapter].norm() > 50 * (actual - wanted)[has_adapter].norm(), "adapters change it, and as they should"
    assert fuse_slots(fused, plain) is None


@pytest.mark.parametrize("slots", [[-1, -1, -1], [1, -1, 0]], ids=str)
def test_layers_in_one_call_are_those_of_a_call_each_to_the_bit(slots: list[int]) -> None:
    """With weights, pages, adapters and a sliding window of their own, two of them sharing a plan."""
    if library() is None:
        pytest.skip("the CPU kernels were not built")
    tokens = make_tokens([9, 14, 3], 16)
    lora = plan_of(slots) if max(slots) >= 0 else None
    layers, plans = [], []
    for plan, window in ((0, 0), (1, 5), (0, 0)):
        parts = make_parts(4, 2, 16, has_bias=True, window=window)
        parts = replace(parts, input_norm=parts.input_norm * (len(layers) + 1))
        fused = FusedLayer(parts, decoder_layer.fuse_layer(parts), decoder_layer)
        layers.append((fused, fuse_slots(fused, LayerSlots(*(made.slots for made in make_adapters_of_layer()))), plan))
        plans.append(prepare_layers(fused, tokens, BLOCK_SIZE, lora))

    def placed() -> tuple[Tensor, list[PlacedLayer]]:
        pages = torch.randn(len(layers), 2, NUM_BLOCKS, BLOCK_SIZE, 2, 16, generator=torch.Generator().manual_seed(1))
        return pages, [PlacedLayer(fused, own, kv[0], kv[1], plan) for (fused, own, plan), kv in zip(layers, pages, strict=True)]

    hidden = torch.randn(len(slots), HIDDEN, generator=torch.Generator().manual_seed(0))
    pages, together = placed()
    found = decoder_layers(hidden.clone(), None, place_layers(together), plans[:2])
    wanted_pages, one_by_one = placed()
    wanted: tuple[Tensor, Tensor | None] = hidden.clone(), None
    for layer, plan in zip(one_by_one, plans, strict=True):
        wanted = decoder_layers(*wanted, place_layers([replace(layer, plan=0)]), [plan])
    assert pages.equal(wanted_pages)
    assert found[0].equal(wanted[0])
    assert wanted[1] is not None
    assert found[1].equal(wanted[1])


def make_end(vocab_size: int) -> EndParts:
    generator = torch.Generator().manual_seed(vocab_size)
    weight = round_to_groups(torch.randn(vocab_size, HIDDEN, generator=generator))
    head = PackedGrouped(vocab_size, HIDDEN, 0, packed_by(grouped_matmul, weight), grouped_matmul)
    return EndParts(torch.randn(vocab_size, HIDDEN, generator=generator), torch.rand(HIDDEN, generator=generator) + 0.5, head, 1e-5)


@pytest.mark.parametrize("num_rows", [1, 3, 70])
def test_what_is_around_the_layers_has_the_bits_of_its_operations(num_rows: int) -> None:
    """The embedding, the last norm, the head and the most likely token of each row."""
    if library() is None:
        pytest.skip("the CPU kernels were not built")
    tokens, layers, parts = make_tokens([3] * num_rows, 16), [], make_end(53)
    for window in (0, 5):
        own = make_parts(4, 2, 16, has_bias=True, window=window)
        layers.append(FusedLayer(own, decoder_layer.fuse_layer(own), decoder_layer))
    plans = [prepare_layers(layer, tokens, BLOCK_SIZE) for layer in layers]
    pages = torch.randn(len(layers), 2, NUM_BLOCKS * num_rows, BLOCK_SIZE, 2, 16, generator=torch.Generator().manual_seed(1))
    placed = place_layers([PlacedLayer(layer, None, kv[0], kv[1], i) for i, (layer, kv) in enumerate(zip(layers, pages, strict=True))])
    token_ids = torch.arange(num_rows) * 7 % 53
    assert parts.table is not None
    branch, residual = decoder_layers(parts.table[token_ids], None, placed, plans)
    hidden, _ = norm.fused_add_rms_norm(branch, residual, parts.norm, parts.eps)
    logits = grouped_matmul.grouped_linear(hidden, parts.head.data, None)
    expected = (hidden, logits, sampling.sample_tokens(logits, None))

    end = FusedEnd(parts, decoder_layer.fuse_end(parts), decoder_layer)
    for start, has_token_ids in ((token_ids, True), (parts.table[token_ids], False)):
        found = layers_to_logits(start, placed, plans, end, has_token_ids=has_token_ids)
        assert all(actual.equal(wanted) for actual, wanted in zip(found, expected, strict=True))
    for none in (-1, 53):
        token_ids[-1] = none
        with pytest.raises(IndexError, match="outside the model's vocabulary"):
            layers_to_logits(token_ids, placed, plans, end, has_token_ids=True)


def test_plain_torch_fuses_nothing() -> None:
    assert reference.fuse_layer(make_parts(2, 1, 16, has_bias=False, window=0)) is None  # type: ignore[func-returns-value]
    assert reference.fuse_end(make_end(5)) is None  # type: ignore[func-returns-value]
