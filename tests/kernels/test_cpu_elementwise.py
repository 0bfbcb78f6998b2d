"""CPU norm, activation, rope and token masks against the reference; the reference norm against transformers' own."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import assert_near
from kernel_comparisons import (
    ACTIVATION_SHAPES,
    DTYPES,
    MASK_SHAPES,
    NORM_SHAPES,
    ROPE_SHAPES,
    compare_activation,
    compare_norm,
    compare_rope,
    compare_token_mask,
)

from headway.kernels import token_mask as token_mask_op
from headway.kernels.cpu import activation, norm, rope, token_mask
from headway.kernels.kv_cache import KVScales, TokenScales, int8_blocks, split_int8_blocks
from headway.kernels.reference import norm as reference_norm
from headway.kernels.reference import rope as reference_rope

pytestmark = pytest.mark.usefixtures("cpu_path")

STRIDED = pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])


@STRIDED
@DTYPE
@pytest.mark.parametrize("shape", NORM_SHAPES, ids=str)
def test_norm(shape: tuple[int, ...], dtype: torch.dtype, strided: bool) -> None:
    compare_norm(norm, shape, dtype, "cpu", strided=strided)


@STRIDED
@DTYPE
@pytest.mark.parametrize("shape", ACTIVATION_SHAPES, ids=str)
def test_activation(shape: tuple[int, ...], dtype: torch.dtype, strided: bool) -> None:
    compare_activation(activation, shape, dtype, "cpu", strided=strided)


@DTYPE
@pytest.mark.parametrize("has_norm", [False, True], ids=["", "norm"])
@pytest.mark.parametrize("shape", ROPE_SHAPES, ids=str)
def test_rope(shape: tuple[int, int, int, int, int, bool], dtype: torch.dtype, has_norm: bool) -> None:
    compare_rope(rope, shape, dtype, "cpu", has_norm=has_norm)
    compare_rope(rope, shape, dtype, "cpu", has_norm=has_norm, fp8=KVScales(0.004, 0.7))
    compare_rope(rope, shape, dtype, "cpu", has_norm=has_norm, contiguous_pages=dtype)
    compare_rope(rope, shape, dtype, "cpu", has_norm=has_norm, has_int8_pages=True)
    if dtype == torch.float32:
        compare_rope(rope, shape, dtype, "cpu", has_norm=has_norm, contiguous_pages=torch.bfloat16)


@STRIDED
@DTYPE
@pytest.mark.parametrize("shape", MASK_SHAPES, ids=str)
def test_token_mask(shape: tuple[int, int, list[int]], dtype: torch.dtype, strided: bool) -> None:
    compare_token_mask(token_mask, shape, dtype, "cpu", strided=strided)


def test_int8_pages_keep_each_head_by_itself() -> None:
    """Nothing is off by more than half a step of its own head; zeros stay zeros, and what is not finite is told, not hidden."""
    num_tokens, num_heads, head_dim = 7, 2, 64
    k = (
        torch.randn(num_tokens, num_heads, head_dim, generator=torch.Generator().manual_seed(0))
        * torch.logspace(-3, 3, num_tokens)[:, None, None]
    )
    k[2], k[3, 0, 5], k[4, 1, 6], k[5, 0] = 0, float("nan"), float("inf"), 1e-44
    pages, scales = split_int8_blocks(torch.zeros(int8_blocks(2, 4, num_heads, head_dim), dtype=torch.int8), 4, num_heads, head_dim)
    values, value_scales = split_int8_blocks(torch.zeros(int8_blocks(2, 4, num_heads, head_dim), dtype=torch.int8), 4, num_heads, head_dim)
    unturned = torch.cat([torch.ones(1, 32), torch.zeros(1, 32)], dim=1)
    zeros, slots = torch.zeros(num_tokens, dtype=torch.int64), torch.arange(num_tokens)
    rope.rope_and_cache(k, k, k, unturned, zeros, pages, values, slots, kv_scales=TokenScales(scales, value_scales))
    for numbers, factors in ((pages, scales), (values, value_scales)):
        read = (numbers * factors[..., None]).flatten(0, 1)[:num_tokens]
        strange = ~k.isfinite().all(dim=-1)
        assert read[strange].isnan().all()
        step = k.abs().amax(dim=-1, keepdim=True) / 127
        near = ((read - k).abs() <= step * 0.501 + 1e-44).all(dim=-1)
        assert near[~strange].all()
        assert not read[2].any()
        assert numbers.flatten(0, 1)[:2].abs().amax(dim=-1).eq(127).all()


def test_reference_token_mask_reads_bits_from_the_lowest() -> None:
    logits = torch.zeros(2, 40)
    token_mask_op.forbid_tokens(logits, torch.tensor([[1 << 3 | -(2**31), 1 << 1]], dtype=torch.int32), torch.tensor([1]))
    assert logits[0].eq(0).all()
    assert logits[1].isfinite().nonzero().flatten().tolist() == [3, 31, 33]


@DTYPE
def test_reference_norm_rounds_as_transformers(dtype: torch.dtype) -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    torch.manual_seed(0)
    module = LlamaRMSNorm(96, eps=1e-5).to(dtype)
    module.weight.data = torch.randn(96).to(dtype)
    x = torch.randn(7, 96).to(dtype)
    assert torch.equal(reference_norm.rms_norm(x, module.weight.data, 1e-5), module(x).detach())


@pytest.mark.parametrize("interleaved", [False, True])
def test_reference_rope_turns_each_pair_by_its_angle(interleaved: bool) -> None:
    """Independently: a pair is a complex number, multiplied by cos + i sin."""
    torch.manual_seed(0)
    angle = torch.randn(20, 8)
    cos_sin = torch.cat([angle.cos(), angle.sin()], dim=1)
    positions = torch.tensor([3, 19, 0])
    q, k = torch.randn(3, 2, 16), torch.randn(3, 1, 16)
    k_cache, v_cache = torch.zeros(2, 16, 1, 16), torch.zeros(2, 16, 1, 16)
    slots = torch.tensor([17, -1, 4])
    out = reference_rope.rope_and_cache(q, k, 2 * k, cos_sin, positions, k_cache, v_cache, slots, interleaved=interleaved)

    def turn(x: torch.Tensor) -> torch.Tensor:
        first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :8], x[..., 8:])
        turned = torch.complex(first, second) * torch.polar(torch.ones(3, 8), angle[positions])[:, None]
        return torch.stack([turned.real, turned.imag], -1).flatten(-2) if interleaved else torch.cat([turned.real, turned.imag], -1)

    assert_near(out, turn(q))
    assert_near(k_cache[1, 1], turn(k)[0])
    assert_near(v_cache[0, 4], 2 * k[2])
    assert k_cache.count_nonzero() == 2 * 16
