"""The element-wise kernels of a layer, adapters, token masks and sampling, as a step of the engine calls them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from device_timing import Call
from kernel_case import Case, Shapes
from torch import Tensor

from headway.kernels.activation import silu_and_mul
from headway.kernels.kv_cache import FP8
from headway.kernels.lora import add_lora, lora_slots, prepare_lora
from headway.kernels.norm import fused_add_rms_norm
from headway.kernels.rope import QKNorm, prepare_rope, rope_and_cache
from headway.kernels.token_mask import forbid_tokens

BLOCK_SIZE = 16
MAX_POSITION = 8192
LORA_RANK, NUM_ADAPTERS = 16, 4


def step_cases(shapes: Shapes, device: torch.device) -> Iterator[Case]:
    for num_tokens in shapes.step_tokens:
        yield _norm(shapes, num_tokens, device)
        yield _rope(shapes, num_tokens, device)
        yield _rope(shapes, num_tokens, device, has_norm=True)
        yield _rope(shapes, num_tokens, device, has_fp8_pages=True)
        yield _silu(shapes, num_tokens, device)
        yield _lora(shapes, num_tokens, device)
    for num_rows in shapes.num_choices:
        yield _token_mask(shapes, num_rows, device)
        for name, options in SAMPLING.items():
            yield _sampling(shapes, num_rows, name, options, device)


def _norm(shapes: Shapes, num_tokens: int, device: torch.device) -> Case:
    size, width = shapes.hidden_size, shapes.dtype.itemsize

    def make() -> Call:
        x, residual = (torch.randn(num_tokens, size, device=device, dtype=shapes.dtype) for _ in range(2))
        weight = torch.randn(size, device=device, dtype=shapes.dtype)
        return lambda: fused_add_rms_norm(x, residual, weight, 1e-5)

    return Case("fused_add_rms_norm", f"{num_tokens}x{size}", (4 * num_tokens + 1) * size * width, 0, make)


def _silu(shapes: Shapes, num_tokens: int, device: torch.device) -> Case:
    size = shapes.intermediate_size

    def make() -> Call:
        x = torch.randn(num_tokens, 2 * size, device=device, dtype=shapes.dtype)
        return lambda: silu_and_mul(x)

    return Case("silu_and_mul", f"{num_tokens}x{size}", 3 * num_tokens * size * shapes.dtype.itemsize, 0, make)


def _rope(shapes: Shapes, num_tokens: int, device: torch.device, *, has_norm: bool = False, has_fp8_pages: bool = False) -> Case:
    num_heads, num_kv_heads, dim = shapes.num_heads, shapes.num_kv_heads, shapes.head_dim
    cache_dtype = FP8 if has_fp8_pages else shapes.dtype

    def make() -> Call:
        qkv = torch.randn(num_tokens, num_heads + 2 * num_kv_heads, dim, device=device, dtype=shapes.dtype)
        q, k, v = qkv.split((num_heads, num_kv_heads, num_kv_heads), dim=1)
        cache = torch.zeros(2, -(-num_tokens // BLOCK_SIZE), BLOCK_SIZE, num_kv_heads, dim, device=device, dtype=cache_dtype)
        cos_sin = torch.rand(MAX_POSITION, dim, device=device)
        positions = torch.randint(MAX_POSITION, (num_tokens,), device=device)
        slots = torch.arange(num_tokens, device=device)
        weight = torch.randn(dim, device=device, dtype=shapes.dtype)
        norm = QKNorm(weight, weight, 1e-6) if has_norm else None
        plan = prepare_rope(cos_sin, positions, slots)
        return lambda: rope_and_cache(q, k, v, cos_sin, positions, *cache, slots, qk_norm=norm, plan=plan)

    moved = num_tokens * dim * ((2 * num_heads + 2 * num_kv_heads) * shapes.dtype.itemsize + 2 * num_kv_heads * cache_dtype.itemsize + 4)
    name = "rope_and_cache" + (" with QK norm" if has_norm else "") + (", fp8 pages" if has_fp8_pages else "")
    return Case(name, f"{num_tokens} tokens, {num_heads}/{num_kv_heads} heads of {dim}", moved, 0, make)


def _lora(shapes: Shapes, num_tokens: int, device: torch.device) -> Case:
    n, k = shapes.products["qkv"]
    num_slots = min(NUM_ADAPTERS, num_tokens)

    def make() -> Call:
        x = torch.randn(num_tokens, k, device=device, dtype=shapes.dtype)
        out = torch.zeros(num_tokens, n, device=device, dtype=shapes.dtype)
        a, b = lora_slots(num_slots, LORA_RANK, (n, k), dtype=shapes.dtype, device=device)
        a.normal_()
        b.normal_(std=1e-3)  # adds up over the calls
        ranks = [LORA_RANK] * num_slots
        plan = prepare_lora(torch.arange(num_tokens) % num_slots, device)
        return lambda: add_lora(out, x, a, b, ranks, plan)

    moved = (num_tokens * (k + 2 * n) + num_slots * LORA_RANK * (k + n)) * shapes.dtype.itemsize
    shape = f"{num_tokens}x{k} to {n}, rank {LORA_RANK}, {num_slots} adapters"
    return Case("add_lora", shape, moved, 2.0 * num_tokens * LORA_RANK * (k + n), make, shapes.arithmetic)


def _token_mask(shapes: Shapes, num_rows: int, device: torch.device) -> Case:
    size = shapes.vocab_size
    num_words = -(-size // 32)

    def make() -> Call:
        logits = torch.randn(num_rows, size, device=device)
        # A grammar mostly forbids nearly everything: one token of 32 is left here.
        allowed = (1 << torch.randint(0, 31, (num_rows, num_words), device=device)).to(torch.int32)
        lines = torch.arange(num_rows, device=device)
        return lambda: forbid_tokens(logits, allowed, lines)

    return Case("forbid_tokens", f"{num_rows}x{size}", num_rows * (4 * num_words + 4 * size), 0, make)


SAMPLING: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "top-k 50": {"temperature": 0.8, "top_k": 50},
    "top-p 0.9": {"temperature": 0.8, "top_p": 0.9},
}


def _sampling(shapes: Shapes, num_rows: int, name: str, options: dict[str, float], device: torch.device) -> Case:
    size = shapes.wide_vocab_size

    def make() -> Call:
        from headway.server.engine.draw import RandomRow, choose_tokens
        from headway.server.types import SamplingParams

        logits: Tensor = torch.randn(num_rows, size, device=device) * 3
        params = SamplingParams(**options)  # type: ignore[arg-type]
        rows = [] if params.is_greedy else [RandomRow(row, params, 0.37) for row in range(num_rows)]
        return lambda: choose_tokens(logits, rows)

    return Case(f"sampling, {name}", f"{num_rows}x{size}", 4 * num_rows * size, 0, make, is_capturable=False)
