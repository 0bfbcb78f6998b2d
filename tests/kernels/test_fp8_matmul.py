"""The reference float8 product against formulas written independently, and what the public functions refuse."""

from __future__ import annotations

import pytest
import torch

from headway.kernels.fp8_matmul import FP8, fp8_linear, quantize_fp8


def test_each_group_of_a_row_has_its_largest_value_at_448() -> None:
    x = torch.randn(3, 300, generator=torch.Generator().manual_seed(0))
    rounded, scale = quantize_fp8(x, 128)
    assert scale.shape == (3, 3)
    for m in range(3):
        for g in range(3):
            part = slice(128 * g, min(128 * g + 128, 300))
            assert rounded[m, part].float().abs().max() == 448
            error = (rounded[m, part].float() * scale[m, g] - x[m, part]).abs()
            assert (error <= (x[m, part].abs() / 16).clamp(min=scale[m, g].item() / 1024)).all()


@pytest.mark.parametrize("kind", ["tensor", "channel", "block"])
def test_weights_are_scaled_by_their_scale(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(200, 300, generator=generator).to(FP8)
    scale = torch.rand({"tensor": (1,), "channel": (200,), "block": (2, 3)}[kind], generator=generator) + 0.5
    x, bias = torch.randn(2, 300, generator=generator), torch.randn(200, generator=generator)
    expected = torch.zeros(2, 200)
    for n in range(200):
        row = weight[n].float()
        for k in range(0, 300, 128):
            factor = scale[n // 128, k // 128] if kind == "block" else scale[n] if kind == "channel" else scale[0]
            expected[:, n] += (x[:, k : k + 128] * row[k : k + 128] * factor).sum(dim=1)
    torch.testing.assert_close(fp8_linear(x, weight, scale, bias, quantize_input=False), expected + bias, atol=1e-4, rtol=1e-5)
    rounded = fp8_linear(x, weight, scale, bias)
    assert (rounded - expected - bias).norm() <= 0.05 * expected.norm()
    assert not torch.equal(rounded, expected + bias)


def test_wrong_tensors_are_named() -> None:
    x, weight, scale = torch.randn(2, 64), torch.randn(8, 64).to(FP8), torch.ones(8)
    fp8_linear(x, weight, scale)
    with pytest.raises(ValueError, match="weight has shape"):
        fp8_linear(x[:, :32], weight, scale)
    with pytest.raises(ValueError, match=r"weight is torch\.float32"):
        fp8_linear(x, weight.float(), scale)
    with pytest.raises(ValueError, match="weight_scale is"):
        fp8_linear(x, weight, scale[:3])
    with pytest.raises(ValueError, match="power of two"):
        quantize_fp8(x, 24)
