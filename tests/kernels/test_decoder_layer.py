"""A fused layer against its operations one by one."""

from __future__ import annotations

import pytest
import torch
from matmul_comparisons import assert_close, packed_by
from torch import Tensor

from headway.kernels.cpu import decoder_layer, grouped_matmul
from headway.kernels.cpu.native.library import library
from headway.kernels.decoder_layer import FusedLayer, GroupedLinearParts, LayerParts, LayerTokens, prepare_layers
from headway.kernels.decoder_layer import decoder_layer as run
from headway.kernels.grouped_layout import round_to_groups
from headway.kernels.grouped_matmul import PackedGrouped
from headway.kernels.reference import decoder_layer as reference

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
    angle = torch.randn(64, rotary_dim // 2, generator=generator)
    width = max(-(-n // BLOCK_SIZE) for n in seq_lens)
    tables = torch.randperm(NUM_BLOCKS, generator=generator)[: len(seq_lens) * width].view(-1, width).int()
    positions = torch.tensor(seq_lens) - 1
    blocks = tables[torch.arange(len(seq_lens)), positions // BLOCK_SIZE]
    slots = blocks * BLOCK_SIZE + positions % BLOCK_SIZE
    slots[-1:] = -1 if len(seq_lens) > 3 else slots[-1:]  # a token that is not kept
    return LayerTokens(torch.cat([angle.cos(), angle.sin()], dim=1), positions, slots, tables, torch.tensor(seq_lens, dtype=torch.int32))


@pytest.mark.parametrize("page_dtype", [torch.float32, torch.bfloat16], ids=str)
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
    pages = [torch.randn(NUM_BLOCKS, BLOCK_SIZE, heads[1], heads[2], generator=generator).to(page_dtype) for _ in range(2)]
    expected_pages = [page.clone() for page in pages]
    k_cache, v_cache = expected_pages
    expected = reference.decoder_layer(hidden.clone(), None if is_first else residual.clone(), parts, k_cache, v_cache, tokens)

    fused = FusedLayer(parts, decoder_layer.fuse_layer(parts), decoder_layer)
    plan = prepare_layers(fused, tokens, BLOCK_SIZE)
    k_cache, v_cache = pages
    found = run(hidden.clone(), None if is_first else residual.clone(), fused, k_cache, v_cache, plan)
    # An activation next to the middle of two steps may be rounded to the other one: 1 / 127 of its group's largest.
    for actual, wanted in zip(found, expected, strict=True):
        assert_close(actual, wanted, error=3000)
        assert (actual - wanted).abs().mean() < 3e-4 * wanted.abs().mean()
    for page, wanted in zip(pages, expected_pages, strict=True):
        torch.testing.assert_close(page.float(), wanted.float(), atol=1e-3, rtol=1e-4 if page_dtype == torch.float32 else 8e-3)


def test_plain_torch_fuses_nothing() -> None:
    assert reference.fuse_layer(make_parts(2, 1, 16, has_bias=False, window=0)) is None  # type: ignore[func-returns-value]
