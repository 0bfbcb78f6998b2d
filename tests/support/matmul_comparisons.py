"""Quantised matrix products in Triton against the reference, on any device, as in kernel_comparisons."""

from __future__ import annotations

from types import ModuleType

import torch
from kernel_cases import odd_strides
from torch import Tensor

from headway.kernels.reference import quant_matmul as reference_int8

# (M, K, N)
MATMUL_SHAPES = [(1, 64, 48), (5, 123, 37), (17, 300, 70), (33, 576, 96), (70, 130, 130), (130, 96, 200), (0, 64, 48)]


def compare_int8(module: ModuleType, shape: tuple[int, int, int], dtype: torch.dtype, device: str, *, strided: bool) -> None:
    """Integers are summed exactly and rounding is the same, so only the last product with the scales may differ."""
    x, weight, bias = make_linear(shape, dtype, device, strided=strided)
    for add in (None, bias):
        expected = reference_int8.int8_linear(x, reference_int8.pack_int8(weight.float()), add)
        actual = module.int8_linear(x, module.pack_int8(weight.float()), add)
        assert_close(actual, expected)


def make_linear(shape: tuple[int, int, int], dtype: torch.dtype, device: str, *, strided: bool) -> tuple[Tensor, Tensor, Tensor]:
    """x [M, K] with one token of zeros and one that is large, weight [N, K] in fp32, bias [N]."""
    m, k, n = shape
    generator = torch.Generator().manual_seed(k)
    x, weight, bias = (torch.randn(size, generator=generator) for size in ((m, k), (n, k), (n,)))
    x[1:2], x[2:3] = 0, 50 * x[2:3]
    x = x.to(dtype).to(device)
    return odd_strides(x) if strided else x, weight.to(device) / k**0.5, bias.to(dtype).to(device)


def assert_close(actual: Tensor, expected: Tensor, *, error: float = 1.0) -> None:
    """Within a rounding to the dtype of the value, or of the largest value of its row where sums cancel; times ``error``."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if not expected.numel():
        return
    step = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[expected.dtype] * error
    size = expected.float().abs().amax(dim=1, keepdim=True)
    difference = (actual.float() - expected.float()).abs()
    assert (difference <= step * size + 1e-9).all(), f"{(difference / size.clamp(min=1e-9)).max():.2e} of the row's largest value"
