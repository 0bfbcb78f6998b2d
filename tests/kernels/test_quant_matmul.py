"""8-bit products: the CPU version against the reference's rounding, and both against fp32."""

from __future__ import annotations

import warnings

import pytest
import torch

from headway.kernels.cpu import quant_matmul as cpu
from headway.kernels.quant_matmul import int8_linear, keep_int8, pack_int8
from headway.kernels.reference import quant_matmul as reference

pytestmark = pytest.mark.usefixtures("cpu_path")


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 64, 48), (5, 123, 37), (33, 576, 96), (0, 64, 48)])
def test_cpu_rounds_as_the_reference(m: int, k: int, n: int, with_bias: bool) -> None:
    torch.manual_seed(k)
    x, weight, bias = torch.randn(m, k), torch.randn(n, k) * 0.1, torch.randn(n) if with_bias else None
    expected = reference.int8_linear(x, reference.pack_int8(weight), bias)
    actual = cpu.int8_linear(x, cpu.pack_int8(weight), bias)
    assert actual.shape == (m, n)
    # A value half-way between two steps may round either way: one step of activation times one weight.
    torch.testing.assert_close(actual, expected, atol=0.02, rtol=1e-3)
    exact = torch.nn.functional.linear(x, weight, bias)
    assert (actual - exact).norm() <= 0.015 * exact.norm()


def test_a_token_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    x, packed = torch.randn(9, 96), pack_int8(torch.randn(40, 96))
    x[3] *= 1000
    together = int8_linear(x, packed)
    for row in range(9):
        assert torch.equal(int8_linear(x[row : row + 1], packed)[0], together[row])


def test_extreme_values_do_not_saturate() -> None:
    x = torch.ones(3, 1024) * torch.tensor([1.0, -1.0, 0.0])[:, None]
    weight = torch.full((16, 1024), 0.5)
    out = int8_linear(x, pack_int8(weight))
    torch.testing.assert_close(out, x @ weight.T, atol=1e-2, rtol=1e-4)


def test_rows_of_zeros() -> None:
    weight = torch.randn(8, 32)
    weight[2] = 0
    out = int8_linear(torch.randn(4, 32), pack_int8(weight))
    assert torch.isfinite(out).all()
    assert torch.equal(out[:, 2], torch.zeros(4))


def test_packing_gives_no_warning_and_keeps_the_engine() -> None:
    engine = torch.backends.quantized.engine
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("error")
        pack_int8(torch.randn(8, 32))
    assert torch.backends.quantized.engine == engine


def test_wrong_input_is_named() -> None:
    packed = pack_int8(torch.randn(8, 32))
    with pytest.raises(ValueError, match="x has shape"):
        int8_linear(torch.randn(4, 31), packed)
    with pytest.raises(ValueError, match="float32"):
        int8_linear(torch.randn(4, 32).bfloat16(), packed)


@pytest.mark.parametrize("shape", [(24, 64), (7, 33)])
def test_a_weight_that_was_quantised_before_is_kept(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)
    scale = torch.rand(shape[0], generator=generator) + 0.1
    x = torch.randint(-126, 127, (5, shape[1]), generator=generator).float()
    x[:, 0] = 127  # the largest of each row: integers are rounded to themselves, and on a CPU without VNNI to 7 bits
    expected = x @ (values.float() * scale[:, None]).T
    assert (int8_linear(x, keep_int8(values.clone(), scale.clone())) - expected).norm() / expected.norm() < 0.01
    with pytest.raises(ValueError, match="values are torch"):
        keep_int8(values.float(), scale)
