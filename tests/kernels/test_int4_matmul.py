"""4-bit weights: each checkpoint format against its own definition, and the reference product against a dense one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize as gguf_dequantize
from gguf.quants import quantize as gguf_quantize
from torch import Tensor

from headway.kernels.int4_layout import PackedInt4, pack_awq, pack_gguf, pack_gptq, pack_int4, unpack_int4
from headway.kernels.int4_matmul import int4_linear
from headway.kernels.reference.int4_matmul import dequantize

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def words(nibbles: Tensor) -> Tensor:
    """[rows, 8 n] -> [rows, n] int32, the first of 8 in the lowest bits."""
    shifted = nibbles.long().view(len(nibbles), -1, 8) << torch.arange(0, 32, 4)
    return shifted.sum(dim=2).to(torch.uint32).view(torch.int32)


def random_weight(k: int, n: int, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values [K, N], zero points [G, N] and scales [G, N] fp16."""
    generator = torch.Generator().manual_seed(k)
    values = torch.randint(0, 16, (k, n), generator=generator)
    zeros = torch.randint(0, 16, (-(-k // group_size), n), generator=generator)
    return values, zeros, (torch.rand(zeros.shape, generator=generator) + 0.5).half()


def dense(packed: PackedInt4) -> Tensor:
    weight = dequantize(packed)
    return weight if packed.order is None else torch.empty_like(weight).index_copy_(1, packed.order, weight)


@pytest.mark.parametrize(("n", "k", "group_size"), [(3, 128, 32), (5, 123, 123), (4, 288, 96), (2, 256, 128), (3, 200, 64), (1, 70, 128)])
def test_packing_keeps_every_value(n: int, k: int, group_size: int) -> None:
    values = torch.randint(0, 16, (n, k), generator=torch.Generator().manual_seed(k))
    groups = torch.rand(-(-k // group_size), n)
    packed = pack_int4(values, groups, -groups, group_size)
    assert torch.equal(unpack_int4(packed).long(), values)
    assert packed.weight.shape[1] <= -(-k // 128) * 64
    column = torch.arange(k) // group_size
    torch.testing.assert_close(dense(packed), (groups[column] * values.t() - groups[column]).t())


def test_awq() -> None:
    values, zeros, scales = random_weight(256, 16, 128)
    qweight, qzeros = (words(x.view(len(x), -1, 8)[:, :, AWQ_ORDER].flatten(1)) for x in (values, zeros))
    packed = pack_awq(qweight, qzeros, scales)
    group = torch.arange(256) // 128
    expected = (values - zeros[group]) * scales[group].float()
    torch.testing.assert_close(dense(packed), expected.t(), atol=0.01, rtol=0)


@pytest.mark.parametrize("is_v1", [True, False], ids=["v1", "v2"])
@pytest.mark.parametrize("act_order", [False, True])
def test_gptq(act_order: bool, is_v1: bool) -> None:
    values, zeros, scales = random_weight(192, 24, 64)
    g_idx = torch.arange(192) // 64
    if act_order:
        g_idx = g_idx[torch.randperm(192, generator=torch.Generator().manual_seed(0))]
    stored = (zeros - 1) % 16 if is_v1 else zeros
    packed = pack_gptq(words(values.t()).t(), words(stored), scales, g_idx.to(torch.int32), zeros_are_less_one=is_v1)
    assert (packed.order is not None) == act_order
    expected = (values - zeros[g_idx]) * scales[g_idx].float()
    torch.testing.assert_close(dense(packed), expected.t(), atol=0.01, rtol=0)


def test_gptq_with_groups_of_unequal_size_is_refused() -> None:
    values, zeros, scales = random_weight(128, 8, 64)
    with pytest.raises(ValueError, match="each of 2 groups 64 inputs"):
        pack_gptq(words(values.t()).t(), words(zeros), scales, torch.zeros(128, dtype=torch.int32))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q8_0"])
def test_gguf(kind: str) -> None:
    number = np.random.default_rng(0)
    quantization = GGMLQuantizationType[kind]
    if kind.endswith("_K"):  # the package only reads them
        blocks = number.integers(0, 256, (3, 2, {"Q4_K": 144, "Q5_K": 176}[kind]), dtype=np.uint8)
        blocks[:, :, 0:4] = number.uniform(0.001, 0.1, (3, 2, 2)).astype(np.float16).view(np.uint8)
        blocks = blocks.reshape(3, -1)
    else:
        blocks = gguf_quantize(number.normal(size=(3, 128)).astype(np.float32), quantization)
    expected = torch.from_numpy(gguf_dequantize(blocks, quantization))
    packed = pack_gguf(torch.from_numpy(blocks), kind)
    assert packed.bits == (4 if kind.startswith("Q4") else 8)
    actual = dense(packed)
    torch.testing.assert_close(actual, expected, atol=1e-3 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_product(dtype: torch.dtype) -> None:
    values, zeros, scales = random_weight(192, 24, 64)
    g_idx = (torch.arange(192) // 64).flip(0).contiguous()
    packed = pack_gptq(words(values.t()).t(), words(zeros), scales, g_idx)
    x, bias = torch.randn(5, 192).to(dtype), torch.randn(24).to(dtype)
    expected = (x.float() @ dense(packed).T + bias).to(dtype)
    torch.testing.assert_close(int4_linear(x, packed, bias), expected, atol=1e-3, rtol=1e-2)
    with pytest.raises(ValueError, match="x has shape"):
        int4_linear(x[:, 1:], packed)


def test_wrong_tensors_are_named() -> None:
    values, ones = torch.zeros(4, 96, dtype=torch.uint8), torch.ones(3, 4)
    with pytest.raises(ValueError, match="multiple of 32"):
        pack_int4(values, ones, ones, 48)
    with pytest.raises(ValueError, match="offset has shape"):
        pack_int4(values, ones, ones[:2], 32)
    with pytest.raises(ValueError, match="not one of Q4_0"):
        pack_gguf(values, "Q6_K")
    with pytest.raises(ValueError, match="18 bytes for 32 weights"):
        pack_gguf(values, "Q4_0")
