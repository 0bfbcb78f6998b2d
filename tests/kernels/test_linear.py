"""Packed weights give what plain ones do."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import assert_near

from headway.kernels.cpu.linear import padded_rows
from headway.kernels.cpu.native.library import function
from headway.kernels.linear import linear, pack_linear, packed_linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("shape", [(1, 64), (5, 64), (2, 3, 64), (0, 64), (9, 64), (3, 43, 64), (257, 64)], ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
def test_packed_equals_plain(shape: tuple[int, ...], dtype: torch.dtype, with_bias: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(shape).to(dtype), (torch.randn(37, 64) / 8).to(dtype)
    bias = torch.randn(37).to(dtype) if with_bias else None
    assert_near(packed_linear(x, pack_linear(weight), bias), linear(x, weight, bias))


def test_wide_input_of_odd_strides() -> None:
    x, weight = torch.randn(4, 600)[:, :576], torch.randn(40, 600)[:, :576] / 24
    assert_near(packed_linear(x, pack_linear(weight)), x @ weight.T)


def test_rows_in_fp32_do_not_depend_on_those_beside_them() -> None:
    """Of the compiled kernel, with any number of threads."""
    if function("dense_linear", torch.float32) is None:
        pytest.skip("the CPU kernels were not built")
    x, packed = torch.randn(140, 130), pack_linear(torch.randn(101, 130))
    whole = packed_linear(x, packed)
    for first, num_rows in ((0, 1), (3, 2), (7, 5), (11, 129), (139, 1)):
        assert torch.equal(packed_linear(x[first : first + num_rows], packed), whole[first : first + num_rows])


def test_few_numbers_of_rows_are_compiled() -> None:
    padded = [padded_rows(num_rows) for num_rows in range(1, 513)]
    assert all(num_rows <= more <= max(8, 1.125 * num_rows) + 7 for num_rows, more in enumerate(padded, 1))
    assert len(set(padded)) == 39
    assert padded[:8] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_wrong_dtype_is_named() -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        packed_linear(torch.randn(2, 64), pack_linear(torch.randn(8, 64).bfloat16()))
