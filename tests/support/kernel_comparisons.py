"""Triton against the reference, on any device: under the interpreter in tests/kernels, on a GPU in tests/gpu."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from kernel_cases import AttentionCase, assert_near, make_attention, odd_strides, run_decode, run_prefill
from torch import Tensor

from headway.kernels.kv_cache import FP8, INT8, UNSCALED, KVScales, PageScales, TokenScales, int8_blocks, split_int8_blocks
from headway.kernels.plans import LoraPlan
from headway.kernels.reference import activation as reference_activation
from headway.kernels.reference import embedding_lora as reference_embedding_lora
from headway.kernels.reference import lora as reference_lora
from headway.kernels.reference import norm as reference_norm
from headway.kernels.reference import paged_attention as reference_decode
from headway.kernels.reference import prefill_attention as reference_prefill
from headway.kernels.reference import rope as reference_rope
from headway.kernels.reference import token_mask as reference_token_mask
from headway.kernels.rope import QKNorm

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
NORM_SHAPES = [(5, 123), (1, 576), (2, 3, 80), (0, 64), (1, 2, 2, 16)]
ACTIVATION_SHAPES = [(5, 246), (1, 3072), (2, 3, 64), (0, 64)]
# (T, Hq, Hkv, D, rotary_dim, interleaved)
ROPE_SHAPES = [
    (5, 3, 1, 64, 64, False),
    (4, 9, 3, 64, 64, True),
    (3, 2, 2, 80, 32, False),
    (3, 8, 1, 80, 20, True),
    (0, 2, 1, 16, 16, False),
]

# (L, V, masked lines)
MASK_SHAPES = [(5, 123, [3, 0]), (4, 4096, [0, 1, 2, 3]), (3, 8193, [2, 1, 0]), (2, 64, [])]


def compare_token_mask(module: ModuleType, shape: tuple[int, int, list[int]], dtype: torch.dtype, device: str, *, strided: bool) -> None:
    num_lines, vocab_size, masked = shape
    generator = torch.Generator().manual_seed(vocab_size)
    logits = torch.randn(num_lines, vocab_size, generator=generator).to(dtype).to(device)
    words = torch.randint(-(2**31), 2**31, (len(masked), -(-vocab_size // 32) + 1), generator=generator, dtype=torch.int64)
    words[:1, :2] = torch.tensor([-1, 0])
    allowed, lines = words.to(torch.int32).to(device), torch.tensor(masked, dtype=torch.int64, device=device)
    if strided:
        logits = odd_strides(logits)
    expected = logits.clone()
    reference_token_mask.forbid_tokens(expected, allowed, lines)
    module.forbid_tokens(logits, allowed, lines)
    assert torch.equal(logits, expected)


def compare_norm(module: ModuleType, shape: tuple[int, ...], dtype: torch.dtype, device: str, *, strided: bool) -> None:
    generator = torch.Generator().manual_seed(len(shape))
    x, residual, weight = (torch.randn(size, generator=generator).to(dtype).to(device) for size in (shape, shape, shape[-1:]))
    if strided:
        x, residual = odd_strides(x), odd_strides(residual)
    for own in (weight, weight.float()):
        assert_near(module.rms_norm(x, own, 1e-5), reference_norm.rms_norm(x, own, 1e-5))
        actual, expected = (m.fused_add_rms_norm(x, residual, own, 1e-5) for m in (module, reference_norm))
        assert_near(actual[0], expected[0])
        assert_near(actual[1], expected[1])


def compare_activation(module: ModuleType, shape: tuple[int, ...], dtype: torch.dtype, device: str, *, strided: bool) -> None:
    x = (3 * torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))).to(dtype).to(device)
    if strided:
        x = odd_strides(x)
    assert_near(module.silu_and_mul(x), reference_activation.silu_and_mul(x))
    for tanh in (False, True):
        assert_near(module.gelu_and_mul(x, tanh=tanh), reference_activation.gelu_and_mul(x, tanh=tanh))


def compare_rope(
    module: ModuleType,
    shape: tuple[int, int, int, int, int, bool],
    dtype: torch.dtype,
    device: str,
    *,
    has_norm: bool = False,
    has_exact_norm: bool = False,
    fp8: KVScales | None = None,
    contiguous_pages: torch.dtype | None = None,
    has_int8_pages: bool = False,
) -> None:
    """q, k and v are slices of one fused tensor; one token has slot -1; untouched slots keep their values."""
    num_tokens, num_heads, num_kv_heads, head_dim, rotary_dim, interleaved = shape
    generator = torch.Generator().manual_seed(num_tokens)
    qkv = torch.randn(num_tokens, num_heads + 2 * num_kv_heads, head_dim, generator=generator).to(dtype).to(device)
    q, k, v = qkv.split([num_heads, num_kv_heads, num_kv_heads], dim=1)
    cos_sin = torch.randn(50, rotary_dim, generator=generator).to(device)
    positions = torch.randint(0, 50, (num_tokens,), generator=generator).to(device)
    slots = torch.randperm(3 * 16, generator=generator)[:num_tokens]
    if num_tokens > 2:
        slots[1] = -1
    norm = None
    if has_norm or has_exact_norm:
        weights = torch.randn(2, head_dim, generator=generator).to(torch.float32 if has_exact_norm else dtype).to(device)
        norm = QKNorm(weights[0], weights[1], 1e-6)
    results = []
    for implementation in (module, reference_rope):
        scales: PageScales = fp8 or UNSCALED
        if has_int8_pages:
            caches, scales = _int8_pages(3, 16, num_kv_heads, head_dim, device=device)
        else:
            page = torch.full((3, 16, num_kv_heads, head_dim), 7.0, dtype=contiguous_pages or dtype, device=device)
            caches = [page.clone() if contiguous_pages else odd_strides(page if fp8 is None else page.to(FP8)) for _ in range(2)]
        before = qkv.clone()
        options = {"interleaved": interleaved, "qk_norm": norm, "kv_scales": scales}
        out = implementation.rope_and_cache(q, k, v, cos_sin, positions, *caches, slots.to(device), **options)
        assert torch.equal(qkv, before)
        # A head's largest number is one of the queries' dtype, and may be rounded to the one beside it.
        token_scales = [scales.k.to(dtype), scales.v.to(dtype)] if isinstance(scales, TokenScales) else []
        results.append((out, *caches, *token_scales))
    for actual, expected in zip(*results, strict=True):
        if expected.dtype == FP8:
            # A number that lies between two of fp8 may be rounded to either.
            assert actual.dtype == FP8
            torch.testing.assert_close(actual.float(), expected.float(), atol=2**-9, rtol=0.13)
            assert (actual.float() != expected.float()).float().mean() < 0.02
        elif expected.dtype == INT8:
            assert actual.dtype == INT8
            assert (actual.int() - expected.int()).abs().max() <= (1 if dtype == torch.float32 else 2) or not actual.numel()
            assert (actual != expected).float().mean() < 0.05
        else:
            assert_near(actual, expected)


def _int8_pages(*shape: int, device: str) -> tuple[list[Tensor], TokenScales]:
    """Keys and values of sevens, and scales of 7."""
    parts = [split_int8_blocks(torch.zeros(int8_blocks(*shape), dtype=INT8, device=device), *shape[1:]) for _ in range(2)]
    for numbers, scales in parts:
        numbers.fill_(7)
        scales.fill_(7)
    return [numbers for numbers, _ in parts], TokenScales(*(scales for _, scales in parts))


def compare_decode(module: ModuleType, case: AttentionCase, device: str, *, strided: bool) -> None:
    inputs = make_attention(case, device, strided=strided)
    assert_near(run_decode(module, case, inputs), run_decode(reference_decode, case, inputs))


def compare_bounded_decode(module: ModuleType, case: AttentionCase, device: str) -> None:
    """As a CUDA graph calls it: tables as wide as the longest context, and that as max_seq_len, so that many splits have no keys."""
    inputs = make_attention(case, device)
    width = 3 * inputs.block_tables.shape[1]
    tables = torch.nn.functional.pad(inputs.block_tables, (0, width - inputs.block_tables.shape[1]))
    out = module.paged_attention(
        inputs.q,
        inputs.k_cache,
        inputs.v_cache,
        tables,
        inputs.seq_lens,
        case.head_dim**-0.5,
        max_seq_len=width * case.block_size,
        sliding_window=case.sliding_window,
        softcap=case.softcap,
        sinks=inputs.sinks,
        kv_scales=inputs.scales,
    )
    assert_near(out, run_decode(reference_decode, case, inputs))


def compare_prefill(module: ModuleType, case: AttentionCase, device: str, *, strided: bool) -> None:
    inputs = make_attention(case, device, strided=strided)
    assert_near(run_prefill(module, case, inputs), run_prefill(reference_prefill, case, inputs))


# (slots of the tokens, ranks of the slots, R, K, N)
LORA_CASES = [
    ([-1, 2, 2, -1, 0], [3, 0, 4], 4, 123, 37),
    ([1, 1, 1], [8, 16, 0], 16, 64, 130),
    ([2, 0, 2, 0, -1, 2, 1] * 6, [20, 0, 33], 40, 257, 70),
    ([0] * 70 + [-1], [80], 96, 300, 48),
    ([1, 0], [0, 0], 8, 32, 16),
    ([-1, -1], [4], 4, 32, 16),
    ([], [4], 4, 32, 16),
]


def compare_lora(
    module: ModuleType, case: tuple[list[int], list[int], int, int, int], dtype: torch.dtype, device: str, *, strided: bool
) -> None:
    """``out`` is some columns of a wider tensor, whose others must stay; what no rank reaches may hold anything."""
    slots, ranks, max_rank, num_columns, num_rows = case
    generator = torch.Generator().manual_seed(num_columns)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype).to(device)

    x, wide = random(len(slots), num_columns), random(len(slots), num_rows + 9)
    a, b = random(len(ranks), max_rank, num_columns) / num_columns**0.5, random(len(ranks), num_rows, max_rank) / max_rank**0.5
    for slot, rank in enumerate(ranks):
        a[slot, rank:], b[slot, :, rank:] = float("nan"), float("nan")
    if strided:
        x, a, b = odd_strides(x), odd_strides(a), odd_strides(b)
    results = []
    for implementation in (module, reference_lora):
        plan = implementation.prepare_lora(torch.tensor(slots, dtype=torch.int64), torch.device(device))
        out = wide.clone()
        implementation.add_lora(out[:, 5 : 5 + num_rows], x, a, b, ranks, plan)
        results.append(out)
    assert_near(*results)


def compare_embedding_lora(
    module: ModuleType,
    prepare: Callable[[torch.Tensor, torch.device], LoraPlan],
    case: tuple[list[int], list[int], int, int, int],
    dtype: torch.dtype,
    device: str,
    *,
    strided: bool,
) -> None:
    """LORA_CASES, whose columns are a vocabulary here; some tokens are another rank's. See ``compare_lora``."""
    slots, ranks, max_rank, num_ids, num_rows = case
    generator = torch.Generator().manual_seed(num_ids)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype).to(device)

    token_ids = torch.randint(-2, num_ids + 2, (len(slots),), generator=generator).to(device)
    wide = random(len(slots), num_rows + 9)
    a, b = random(len(ranks), num_ids, max_rank), random(len(ranks), num_rows, max_rank) / max_rank**0.5
    for slot, rank in enumerate(ranks):
        a[slot, :, rank:], b[slot, :, rank:] = float("nan"), float("nan")
    if strided:
        a, b = odd_strides(a), odd_strides(b)
    results = []
    for implementation, own_prepare in ((module, prepare), (reference_embedding_lora, reference_lora.prepare_lora)):
        plan = own_prepare(torch.tensor(slots, dtype=torch.int64), torch.device(device))
        out = wide.clone()
        implementation.add_embedding_lora(out[:, 5 : 5 + num_rows], token_ids, a, b, ranks, plan)
        results.append(out)
    assert_near(*results)
