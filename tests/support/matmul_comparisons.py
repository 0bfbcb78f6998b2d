"""Quantised matrix products in Triton against the reference, on any device, as in kernel_comparisons."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from kernel_cases import odd_strides
from torch import Tensor

from headway.kernels.grouped_layout import GROUP, GroupedValues
from headway.kernels.hadamard import block_of, spread_blocks
from headway.kernels.int4_layout import pack_int4
from headway.kernels.reference import fp8_matmul as reference_fp8
from headway.kernels.reference import int4_matmul as reference_int4
from headway.kernels.reference import quant_matmul as reference_int8
from headway.kernels.tuned import Tiles

# (M, K), group
FP8_GROUPS = [((5, 123), 0), ((4, 300), 128), ((3, 5000), 0), ((2, 64), 32), ((0, 64), 128)]
# (M, K, N)
MATMUL_SHAPES = [(1, 64, 48), (5, 123, 37), (17, 300, 70), (33, 576, 96), (70, 130, 130), (130, 96, 200), (0, 64, 48)]


def compare_int8(module: ModuleType, shape: tuple[int, int, int], dtype: torch.dtype, device: str, *, strided: bool) -> None:
    """Integers are summed exactly and rounding is the same, so only the last product with the scales may differ."""
    x, weight, bias = make_linear(shape, dtype, device, strided=strided)
    for add in (None, bias):
        expected = reference_int8.int8_linear(x, reference_int8.pack_int8(weight.float()), add)
        actual = module.int8_linear(x, module.pack_int8(weight.float()), add)
        assert_close(actual, expected)


def compare_spread_int8(module: ModuleType, shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> None:
    """Sums of a block may be ordered differently, and what they take over the middle between two numbers is off by one of 127."""
    x, weight, bias = make_linear(shape, dtype, device, strided=True)
    block = block_of(x.shape[1], 128)
    weight = spread_blocks(weight.float(), block)
    expected = reference_int8.int8_linear(x, reference_int8.pack_int8(weight), bias, block)
    actual = module.int8_linear(x, module.pack_int8(weight), bias, block)
    exact = spread_blocks(x.float(), block) @ weight.T + bias.float()
    off = spread_blocks(x.float(), block).abs().amax(dim=1, keepdim=True) / 127 * weight.abs().amax()
    assert_close(actual, expected, more=off)
    assert (actual - exact).norm() < 0.02 * exact.norm() + 1e-6


def make_linear(shape: tuple[int, int, int], dtype: torch.dtype, device: str, *, strided: bool) -> tuple[Tensor, Tensor, Tensor]:
    """x [M, K] with one token of zeros and one that is large, weight [N, K] in fp32, bias [N]."""
    m, k, n = shape
    generator = torch.Generator().manual_seed(k)
    x, weight, bias = (torch.randn(size, generator=generator) for size in ((m, k), (n, k), (n,)))
    x[1:2], x[2:3] = 0, 50 * x[2:3]
    x = x.to(dtype).to(device)
    return odd_strides(x) if strided else x, weight.to(device) / k**0.5, bias.to(dtype).to(device)


def random_groups(num_rows: int, num_columns: int, bits: int) -> GroupedValues:
    generator = torch.Generator().manual_seed(num_columns)
    groups = (num_rows, -(-num_columns // GROUP))
    values = torch.randint(0, 2**bits, (num_rows, num_columns), generator=generator, dtype=torch.uint8)
    scale, offset = (torch.randn(groups, generator=generator).half() for _ in range(2))
    return GroupedValues(values, scale, offset, bits)


def packed_by(module: ModuleType, weight: GroupedValues) -> Any:
    """For ``module.grouped_linear``."""
    data, _ = module.empty_grouped(*weight.shape, weight.bits)
    module.put_rows(data, 0, weight)
    return data


def assert_close(actual: Tensor, expected: Tensor, *, error: float = 1.0, more: Tensor | float = 0.0) -> None:
    """Within a rounding to the dtype of the value, or of the largest value of its row where sums cancel; times ``error``; and ``more``."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if not expected.numel():
        return
    step = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[expected.dtype] * error
    size = expected.float().abs().amax(dim=1, keepdim=True)
    difference = (actual.float() - expected.float()).abs()
    assert (difference <= step * size + more + 1e-9).all(), f"{(difference / size.clamp(min=1e-9)).max():.2e} of the row's largest value"


def compare_fp8(module: ModuleType, shape: tuple[int, int, int], dtype: torch.dtype, device: str, *, strided: bool) -> None:
    """Each kind of scale, with and without rounding of the input."""
    _, k, n = shape
    x, weight, bias = make_linear(shape, dtype, device, strided=strided)
    per_channel, scale = reference_fp8.quantize_fp8(weight)
    blocks = scale[0] * (torch.rand(-(-n // 128), -(-k // 128), generator=torch.Generator().manual_seed(n)).to(device) + 0.5)
    for rounded, weight_scale, add in ((per_channel, scale[:, 0], bias), (per_channel, scale[:1, 0], None), (per_channel, blocks, bias)):
        weight = torch.cat([rounded, rounded], dim=1)[:, : x.shape[1]] if strided else rounded
        for quantize_input in (True, False):
            expected = reference_fp8.fp8_linear(x, rounded, weight_scale.contiguous(), add, quantize_input=quantize_input)
            actual = module.fp8_linear(x, weight, weight_scale.contiguous(), add, quantize_input=quantize_input)
            if device == "cuda" and dtype == torch.float32 and quantize_input and module.has_fp8(x.device):
                assert_close(actual, expected, error=2, more=error_of_fp8_units(*_multiplied(x, rounded, weight_scale.contiguous())))
            else:
                assert_close(actual, expected, error=200 if device == "cuda" and dtype == torch.float32 else 2)


def _multiplied(x: Tensor, weight: Tensor, weight_scale: Tensor) -> tuple[Tensor, Tensor]:
    """x as it is rounded and the weight, in fp32 and times their scales: each times the unit matrix."""
    unit, num_blocks = torch.eye(x.shape[1], device=x.device), -(-x.shape[1] // 128)
    ones = torch.ones((num_blocks, num_blocks) if weight_scale.dim() == 2 else (1,), device=x.device)
    rounded = reference_fp8.fp8_linear(x, unit.to(torch.float8_e4m3fn), ones, None, quantize_input=True)
    return rounded, reference_fp8.fp8_linear(unit, weight, weight_scale, None, quantize_input=False).T


def error_of_fp8_units(x: Tensor, weight: Tensor) -> Tensor:
    """What the fp8 units of Hopper may be off in ``x @ weight.T``: five standard deviations, of x [M, K], weight [N, K].

    An instruction adds 32 products to the sum so far. The 33 numbers are aligned to the largest of them and cut, towards 0, below 2^-13 of
    it ("around 14 bits": DeepSeek-V3, arXiv:2412.19437, 3.3.2). So each loses between 0 and 2^-13 of the largest: a loss with the sign of
    the number and a mean square of at most a third of that squared. Losses are taken to be independent. After 128 products, where our
    kernel moves the sum on to fp32, it begins anew. Scales, which all products of an instruction share, change nothing.
    """
    variance = torch.zeros(x.shape[0], weight.shape[0], device=x.device)
    for begin in range(0, x.shape[1], 32):
        products = (x[:, None, begin : begin + 32] * weight[None, :, begin : begin + 32]).abs().amax(dim=2)
        block = slice(begin // 128 * 128, begin)
        largest = torch.maximum(products, (x[:, block] @ weight[:, block].T).abs())
        variance += 33 / 3 * (2**-13 * largest) ** 2
    return 5 * variance.sqrt()


def compare_quantize_fp8(module: ModuleType, shape: tuple[int, int], group_size: int, dtype: torch.dtype, device: str) -> None:
    """The same bits."""
    x = odd_strides(torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype).to(device))
    x[1:2], x[2:3] = 0, 1e-4 * x[2:3]
    x[:1, 0] = 300  # most other values of this row are below 2^-6 of its scale
    for actual, expected in zip(module.quantize_fp8(x, group_size), reference_fp8.quantize_fp8(x, group_size), strict=True):
        assert actual.dtype == expected.dtype
        assert torch.equal(actual.float(), expected.float())


# (M, K, N), columns a group, whether inputs are permuted
INT4_CASES = [
    ((1, 64, 48), 32, False),
    ((5, 123, 37), 123, True),
    ((17, 300, 70), 96, False),
    ((33, 1152, 96), 128, True),
    ((3, 600, 130), 64, False),
    ((70, 130, 130), 32, True),
    ((130, 256, 200), 128, False),
    ((140, 123, 70), 123, True),
    ((0, 64, 48), 64, True),
]
Int4Case = tuple[tuple[int, int, int], int, bool]


def compare_int4(module: ModuleType, case: Int4Case, dtype: torch.dtype, device: str, *, strided: bool, bits: int = 4) -> None:
    """Parameters in fp16 and, offsets, in fp32."""
    shape, group_size, is_permuted = case
    _, k, n = shape
    generator = torch.Generator().manual_seed(k)
    values = torch.randint(0, 2**bits, (n, k), generator=generator)
    scale = ((torch.rand(-(-k // group_size), n, generator=generator) + 0.5) * 16 / (2**bits * k**0.5)).half()
    offset = -scale.float() * torch.randint(0, 2**bits, scale.shape, generator=generator)
    order = torch.randperm(k, generator=generator).to(device) if is_permuted else None
    packed = pack_int4(values.to(device), scale.to(device), offset.to(device), group_size, order, bits=bits)
    x, _, bias = make_linear(shape, dtype, device, strided=strided)
    for add in (None, bias):
        # Where weights are rounded to x's dtype, it is as if each product had one rounding more.
        assert_close(module.int4_linear(x, packed, add), reference_int4.int4_linear(x, packed, add), error=4)


# (M, K, N), tiles as of a table, None: the estimate
LINEAR_CASES = [
    ((1, 64, 48), None),
    ((1, 123, 37), None),
    ((1, 4100, 9), None),
    ((1, 300, 40), Tiles(16, 32, 64)),
    ((1, 1024, 5), Tiles(1, 1, 512, num_stages=1)),
    ((2, 64, 48), None),
    ((5, 123, 37), None),
    ((16, 600, 130), None),
    ((16, 576, 70), Tiles(16, 64, 128)),
]
LinearCase = tuple[tuple[int, int, int], Tiles | None]


def compare_linear(module: ModuleType, case: LinearCase, dtype: torch.dtype, device: str, *, strided: bool) -> None:
    shape, tiles = case
    x, weight, bias = make_linear(shape, dtype, device, strided=strided)
    weight = weight.to(dtype)
    if strided:
        weight = odd_strides(weight)
    for add in (None, bias):
        actual = module.narrow_linear(x, weight, add, tiles or module.estimate(*shape[::2], shape[1], 16, 99 * 1024))
        expected = x.float() @ weight.float().T + (0 if add is None else add.float())
        assert_close(actual, expected.to(dtype))
