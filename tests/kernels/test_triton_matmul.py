"""Quantised matrix products in Triton against the reference, run by Triton's interpreter where there is no GPU."""

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
    error_of_fp8_units,
    make_linear,
)

from headway.kernels.backend import is_interpreting

pytest.importorskip("triton")
if not is_interpreting():
    pytest.skip("a GPU is present: tests/gpu runs these comparisons on it", allow_module_level=True)

from headway.kernels.gpu import fp8_matmul, int4_matmul, linear, quant_matmul
from headway.kernels.tuned import LIBRARY, Tiles

STRIDED = pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
SHAPE = pytest.mark.parametrize("shape", MATMUL_SHAPES, ids=str)


@DTYPE
@SHAPE
def test_int8(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    compare_int8(quant_matmul, shape, dtype, "cpu", strided=True)


@DTYPE
@pytest.mark.parametrize("shape", [(1, 64, 48), (9, 130, 70), (5, 96, 33), (3, 2112, 16)], ids=str)
def test_int8_of_spread_channels(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    compare_spread_int8(quant_matmul, shape, dtype, "cpu")


def test_int8_token_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    x, data = torch.randn(70, 1024), quant_matmul.pack_int8(torch.randn(40, 1024))
    together = quant_matmul.int8_linear(x, data, None)
    assert torch.equal(quant_matmul.int8_linear(x[3:4], data, None)[0], together[3])


@DTYPE
@SHAPE
def test_fp8(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    compare_fp8(fp8_matmul, shape, dtype, "cpu", strided=True)


@SHAPE
def test_fp8_without_fp8_units(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp8_matmul, "has_fp8", lambda device: False)
    compare_fp8(fp8_matmul, shape, torch.bfloat16, "cpu", strided=False)


@DTYPE
@pytest.mark.parametrize(("shape", "group_size"), FP8_GROUPS, ids=str)
@pytest.mark.parametrize("is_native", [True, False], ids=["fp8", "bf16"])
def test_quantize_fp8(
    shape: tuple[int, int], group_size: int, dtype: torch.dtype, is_native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fp8_matmul, "has_fp8", lambda device: is_native)
    compare_quantize_fp8(fp8_matmul, shape, group_size, dtype, "cpu")


@pytest.mark.parametrize(("num_rows", "group_size"), [(65, 128), (32, 32)])
def test_weights_in_groups_are_written_out_for_many_rows(num_rows: int, group_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int4_matmul, "int4_kernel", None)  # which unpacks in registers
    compare_int4(int4_matmul, ((num_rows, 256, 70), group_size, False), torch.float32, "cpu", strided=False)


@STRIDED
@DTYPE
@pytest.mark.parametrize("case", INT4_CASES, ids=str)
def test_int4(case: Int4Case, dtype: torch.dtype, strided: bool) -> None:
    compare_int4(int4_matmul, case, dtype, "cpu", strided=strided)


@DTYPE
@pytest.mark.parametrize("case", INT4_CASES, ids=str)
def test_8_bits_in_groups(case: Int4Case, dtype: torch.dtype) -> None:
    compare_int4(int4_matmul, case, dtype, "cpu", strided=True, bits=8)


@STRIDED
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("case", LINEAR_CASES, ids=str)
def test_linear(case: LinearCase, dtype: torch.dtype, strided: bool) -> None:
    compare_linear(linear, case, dtype, "cpu", strided=strided)


def test_linear_row_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(16, 300).half(), torch.randn(40, 300).half()
    together = linear.packed_linear(x, weight, None)
    assert torch.equal(linear.packed_linear(x[3:5], weight, None), together[3:5])


@pytest.mark.parametrize(
    ("x", "is_ours"),
    [
        (torch.randn(1, 64).half(), True),
        (torch.randn(16, 64).bfloat16(), True),
        (torch.randn(17, 64).half(), False),
        (torch.randn(0, 64).half(), False),
        (torch.randn(2, 64), False),
        (torch.randn(2, 128).half()[:, ::2], False),
        (torch.randn(64, 2).half().T, False),
    ],
    ids=["one", "sixteen", "many", "none", "fp32", "every second", "transposed"],
)
def test_linear_takes_few_rows_of_two_bytes(x: torch.Tensor, is_ours: bool) -> None:
    weight = torch.randn(40, 64).to(x.dtype)
    assert (linear.choose_tiles(x, weight) != LIBRARY) == is_ours
    torch.testing.assert_close(linear.packed_linear(x, weight, None), torch.nn.functional.linear(x, weight), atol=0.05, rtol=0.05)


def test_linear_takes_tiles_from_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(2, 3, 64).half(), torch.randn(40, 64).half()
    for found in (Tiles(16, 16, 32), LIBRARY):
        monkeypatch.setattr(linear, "tuned_tiles", lambda *_, found=found: found)
        assert linear.choose_tiles(x[0], weight) == found
        assert linear.packed_linear(x, weight, None).shape == (2, 3, 40)


@pytest.mark.parametrize(("bits", "is_within"), [(13, True), (11, False)])
def test_what_fp8_units_may_be_off(bits: int, is_within: bool) -> None:
    """Units that cut as the bound says stay within it, and those that keep a bit less do not."""
    x, weight, _ = make_linear((20, 300, 70), torch.float32, "cpu", strided=False)
    x, weight = ((values.float() * scale) for values, scale in map(fp8_matmul.quantize_fp8, (x, weight)))
    total = torch.zeros(20, 70, dtype=torch.float64)
    for begin in range(0, 300, 128):
        part = torch.zeros_like(total)
        for start in range(begin, min(begin + 128, 300), 32):
            end = min(start + 32, begin + 128)
            addends = torch.cat([x[:, None, start:end] * weight[None, :, start:end], part[:, :, None]], dim=2)
            largest = addends.abs().amax(dim=2, keepdim=True).clamp(min=1e-300)
            step = 2.0 ** (largest.log2().floor() - bits)
            part = ((addends / step).trunc() * step).sum(2)
        total += part
    off = (total - x.double() @ weight.double().T).abs()
    bound = error_of_fp8_units(x, weight)
    assert bool((off <= bound + 1e-9).all()) == is_within
    assert bound.max() < 2e-3 * total.abs().amax()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_what_is_not_a_number_stays_so_in_its_row() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(4, 200), torch.randn(40, 200)
    x[1, 77] = float("nan")
    rounded, scale = fp8_matmul.quantize_fp8(weight)
    for out in (
        quant_matmul.int8_linear(x, quant_matmul.pack_int8(weight), None),
        fp8_matmul.fp8_linear(x, rounded, scale[:, 0], None, quantize_input=True),
        fp8_matmul.fp8_linear(x, rounded, torch.ones(1, 2), None, quantize_input=True),
    ):
        assert out.isnan().all(dim=1).tolist() == [False, True, False, False]
        assert out[[0, 2, 3]].isfinite().all()
