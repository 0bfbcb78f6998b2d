"""A mixture of experts in Triton against the reference, on any device."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from expert_weights import make_experts
from kernel_cases import TOLERANCE, assert_near, odd_strides

from headway.kernels.moe import ClampedGate
from headway.kernels.reference import moe as reference

# (T, E, K, H, I)
MOE_SHAPES = [(1, 4, 2, 64, 32), (5, 8, 3, 123, 37), (70, 3, 1, 48, 130), (9, 40, 8, 80, 16), (3, 1, 1, 16, 16), (0, 4, 2, 16, 16)]
ROUTE_SHAPES = [(5, 8, 2), (3, 60, 4), (1, 1, 1), (4, 128, 8), (2, 5, 5), (0, 8, 2)]


def compare_moe(module: ModuleType, shape: tuple[int, int, int, int, int], dtype: torch.dtype, device: str, *, strided: bool) -> None:
    """The first expert gets nothing where there are enough others, the last one a part of every token's."""
    num_tokens, num_experts, top_k, hidden_size, intermediate_size = shape
    generator = torch.Generator().manual_seed(num_tokens)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator).to(dtype).to(device)

    x, gate_up = random(num_tokens, hidden_size), random(num_experts, 2 * intermediate_size, hidden_size) / hidden_size**0.5
    down = random(num_experts, hidden_size, intermediate_size) / intermediate_size**0.5
    logits = torch.randn(num_tokens, num_experts, generator=generator)
    logits[:, 0] -= 100.0
    logits[:, -1] += 100.0
    weights, experts = reference.route_tokens(logits.to(device), top_k, scoring="sigmoid", renormalise=True)
    if strided:
        x, gate_up, down = odd_strides(x), odd_strides(gate_up), odd_strides(down)
    actual, expected = (m.moe(x, gate_up, down, weights, experts) for m in (module, reference))
    assert_near(actual, expected)
    # As gpt-oss has it, with biases and another gate, and as one device of several: it lacks the last expert, which all tokens go to.
    others = {"gate_up_bias": random(num_experts, 2 * intermediate_size)[:-1], "down_bias": random(num_experts, hidden_size)[:-1]}
    actual, expected = (
        m.moe(x, gate_up[:-1], down[:-1], weights, experts, **others, gate=ClampedGate(0.7, 1.7)) for m in (module, reference)
    )
    assert_near(actual, expected)


def compare_routes(module: ModuleType, shape: tuple[int, int, int], dtype: torch.dtype, device: str, *, strided: bool) -> None:
    num_tokens, num_experts, top_k = shape
    logits = (torch.randn(num_tokens, num_experts, generator=torch.Generator().manual_seed(top_k)) * 3).to(dtype).to(device)
    logits[:1] = 1.5  # equal scores
    if strided:
        logits = odd_strides(logits)
    for scoring in ("softmax", "sigmoid"):
        for renormalise in (False, True):
            actual, expected = (m.route_tokens(logits, top_k, scoring=scoring, renormalise=renormalise) for m in (module, reference))
            assert_near(actual[0], expected[0])
            assert torch.equal(actual[1], expected[1])


def compare_groups(module: ModuleType, num_tokens: int, num_experts: int, top_k: int, block_m: int, device: str) -> None:
    """Every pair is in one tile, which is its expert's."""
    generator = torch.Generator().manual_seed(num_tokens)
    experts = torch.stack([torch.randperm(num_experts, generator=generator)[:top_k] for _ in range(num_tokens)]).to(torch.int32)
    pairs, tile_experts, num_tiles = (part.cpu() for part in module.group_pairs(experts.to(device), num_experts, block_m))
    tiles = pairs.view(-1, block_m)[: num_tiles.item()]
    assert sorted(tiles[tiles >= 0].tolist()) == list(range(num_tokens * top_k))
    for tile, expert in zip(tiles, tile_experts.tolist(), strict=False):
        its_pairs = tile[tile >= 0]
        assert len(its_pairs)
        assert (experts.flatten()[its_pairs.long()] == expert).all()


# (T, E, K, H, I): I of blocks is a multiple of 128.
QUANTIZED_SHAPES = [(5, 4, 2, 150, 70), (1, 3, 2, 64, 32), (40, 2, 1, 96, 136)]
WIDE_SHAPE = (260, 2, 1, 70, 40)  # weights in groups are written out


def compare_quantized_moe(
    module: ModuleType, kind: str, shape: tuple[int, int, int, int, int], dtype: torch.dtype, device: str, *, is_plain_down: bool = False
) -> None:
    """As a device that lacks the last expert, where the first has no tokens; with biases and gpt-oss's gate, and without."""
    num_tokens, num_experts, top_k, hidden_size, intermediate_size = shape
    if "blocks" in kind:
        intermediate_size = -(-intermediate_size // 128) * 128
    generator = torch.Generator().manual_seed(num_tokens)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator)

    x = random(num_tokens, hidden_size).to(dtype).to(device)
    gate_up = make_experts(kind, random(num_experts, 2 * intermediate_size, hidden_size) / hidden_size**0.5, device)
    plain = random(num_experts, hidden_size, intermediate_size) / intermediate_size**0.5
    down = plain.to(dtype).to(device) if is_plain_down else make_experts(kind, plain, device)
    logits = random(num_tokens, num_experts + 1)
    logits[:, 0] -= 100.0
    weights, experts = reference.route_tokens(logits.to(device), top_k, scoring="sigmoid", renormalise=True)
    biases = {"gate_up_bias": random(num_experts, 2 * intermediate_size), "down_bias": random(num_experts, hidden_size)}
    gpt_oss: dict[str, Any] = {name: bias.to(dtype).to(device) for name, bias in biases.items()} | {"gate": ClampedGate(0.7, 1.7)}
    rounds = not kind.startswith(("int4", "int8-32", "mxfp4")) and "weights" not in kind
    for options in ({}, gpt_oss):
        actual, expected = (m.moe(x, gate_up, down, weights, experts, **options) for m in (module, reference))
        _assert_near_rounded(actual, expected, rounds=rounds)


def _assert_near_rounded(actual: torch.Tensor, expected: torch.Tensor, *, rounds: bool) -> None:
    """Where activations are rounded to 8 bits, one at the edge of two steps may go either way: then few results differ, and by little."""
    if not rounds:
        assert_near(actual, expected, scale=2)
        return
    assert actual.dtype == expected.dtype
    assert (actual.float() - expected.float()).norm() < (TOLERANCE[actual.dtype] + 0.01) * expected.float().norm()
