"""A mixture of experts in Triton's interpreter against the reference."""

from __future__ import annotations

import pytest
import torch
from expert_weights import KINDS
from kernel_comparisons import DTYPES
from moe_comparisons import (
    MOE_SHAPES,
    QUANTIZED_SHAPES,
    ROUTE_SHAPES,
    WIDE_SHAPE,
    compare_groups,
    compare_moe,
    compare_quantized_moe,
    compare_routes,
)

from headway.kernels.backend import is_interpreting
from headway.kernels.tuned import Tiles

pytest.importorskip("triton")
if not is_interpreting():
    pytest.skip("a GPU is present: tests/gpu runs these comparisons on it", allow_module_level=True)

from headway.kernels.gpu import moe, quant_moe

STRIDED = pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])


@STRIDED
@DTYPE
@pytest.mark.parametrize("shape", MOE_SHAPES, ids=str)
def test_moe(shape: tuple[int, int, int, int, int], dtype: torch.dtype, strided: bool) -> None:
    compare_moe(moe, shape, dtype, "cpu", strided=strided)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_few_bits(kind: str) -> None:
    several, one, many = QUANTIZED_SHAPES
    compare_quantized_moe(moe, kind, several, torch.float32, "cpu")
    compare_quantized_moe(moe, kind, one, torch.bfloat16, "cpu")
    if kind in ("mxfp4", "int4-32", "int8-32", "fp8-channel"):
        compare_quantized_moe(moe, kind, many, torch.float16, "cpu", is_plain_down=True)


@pytest.mark.parametrize("kind", ["int4-32", "int4-64-order", "int8-32", "mxfp4"])
def test_weights_in_groups_of_experts_with_many_rows(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moe, "quant_product", None)  # in registers they are not unpacked
    compare_quantized_moe(moe, kind, WIDE_SHAPE, torch.float32, "cpu")


def test_experts_too_large_to_be_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moe, "MOST_BYTES", 1024)
    monkeypatch.setattr(moe, "dequantize_experts", None)
    compare_quantized_moe(moe, "mxfp4", WIDE_SHAPE, torch.float32, "cpu")


@pytest.mark.parametrize("kind", ["fp8-channel", "fp8-blocks-weights"])
def test_fp8_where_the_chip_has_none(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quant_moe, "has_fp8", lambda _: False)
    compare_quantized_moe(moe, kind, (5, 2, 2, 150, 70), torch.float32, "cpu")


def test_tiles_of_a_table_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moe, "tuned_tiles", lambda *_: Tiles(32, 16, 16))
    compare_moe(moe, (70, 3, 2, 48, 40), torch.float32, "cpu", strided=False)
    monkeypatch.setattr(quant_moe, "tuned_tiles", lambda *_: Tiles(32, 16, 64))
    for kind in ("fp8-channel-weights", "int4-32"):
        compare_quantized_moe(moe, kind, (7, 2, 1, 70, 40), torch.float32, "cpu")


@STRIDED
@DTYPE
@pytest.mark.parametrize("shape", ROUTE_SHAPES, ids=str)
def test_routes(shape: tuple[int, int, int], dtype: torch.dtype, strided: bool) -> None:
    compare_routes(moe, shape, dtype, "cpu", strided=strided)


@pytest.mark.parametrize(
    ("num_tokens", "num_experts", "top_k", "block_m"), [(1, 5, 2, 16), (100, 7, 3, 16), (90, 40, 2, 64), (40, 1, 1, 16)]
)
def test_groups(num_tokens: int, num_experts: int, top_k: int, block_m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moe, "CHUNK", 32)
    compare_groups(moe, num_tokens, num_experts, top_k, block_m, "cpu")
