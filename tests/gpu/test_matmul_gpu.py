"""Quantised matrix products in Triton against the reference on a CUDA device."""

from __future__ import annotations

import pytest
import torch
from kernel_comparisons import DTYPES
from matmul_comparisons import (
    FP8_GROUPS,
    INT4_CASES,
    LINEAR_CASES,
    MATMUL_SHAPES,
    Int4Case,
    LinearCase,
    compare_fp8,
    compare_int4,
    compare_int8,
    compare_linear,
    compare_quantize_fp8,
    compare_spread_int8,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

STRIDED = pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
SHAPE = pytest.mark.parametrize("shape", [*MATMUL_SHAPES, (7, 4096, 1024), (300, 1024, 4096)], ids=str)


@pytest.fixture(autouse=True)
def _exact_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference's own fp32 products must not be rounded to tf32."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@STRIDED
@DTYPE
@SHAPE
def test_int8(shape: tuple[int, int, int], dtype: torch.dtype, strided: bool) -> None:
    from headway.kernels.gpu import quant_matmul

    compare_int8(quant_matmul, shape, dtype, "cuda", strided=strided)


@DTYPE
@SHAPE
def test_int8_of_spread_channels(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    from headway.kernels.gpu import quant_matmul

    compare_spread_int8(quant_matmul, shape, dtype, "cuda")


@STRIDED
@DTYPE
@SHAPE
def test_fp8(shape: tuple[int, int, int], dtype: torch.dtype, strided: bool) -> None:
    from headway.kernels.gpu import fp8_matmul

    compare_fp8(fp8_matmul, shape, dtype, "cuda", strided=strided)


@DTYPE
@SHAPE
def test_fp8_without_fp8_units(shape: tuple[int, int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    from headway.kernels.gpu import fp8_matmul

    monkeypatch.setattr(fp8_matmul, "has_fp8", lambda device: False)
    compare_fp8(fp8_matmul, shape, dtype, "cuda", strided=False)


@DTYPE
@pytest.mark.parametrize(("shape", "group_size"), [*FP8_GROUPS, ((300, 8192), 0), ((300, 8192), 128)], ids=str)
def test_quantize_fp8(shape: tuple[int, int], group_size: int, dtype: torch.dtype) -> None:
    from headway.kernels.gpu import fp8_matmul

    compare_quantize_fp8(fp8_matmul, shape, group_size, dtype, "cuda")


@STRIDED
@DTYPE
@pytest.mark.parametrize("case", [*INT4_CASES, ((7, 4096, 1024), 128, False), ((300, 1024, 4096), 32, True)], ids=str)
@pytest.mark.parametrize("bits", [4, 8])
def test_weights_in_groups(case: Int4Case, dtype: torch.dtype, strided: bool, bits: int) -> None:
    from headway.kernels.gpu import int4_matmul

    compare_int4(int4_matmul, case, dtype, "cuda", strided=strided, bits=bits)


@STRIDED
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("case", [*LINEAR_CASES, *[((m, 4096, n), None) for m in (1, 8) for n in (4096, 28672)]], ids=str)
def test_linear(case: LinearCase, dtype: torch.dtype, strided: bool) -> None:
    from headway.kernels.gpu import linear

    compare_linear(linear, case, dtype, "cuda", strided=strided)
