"""A mixture of experts in Triton against the reference on a CUDA device."""

from __future__ import annotations

import pytest
import torch
from expert_weights import KINDS, make_experts
from kernel_comparisons import DTYPES
from moe_comparisons import (
    MOE_SHAPES,
    QUANTIZED_SHAPES,
    ROUTE_SHAPES,
    WIDE_SHAPE,
    compare_groups,
    compare_moe,
    compare_quantized_moe,
    compare_routes,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

STRIDED = pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])


@pytest.fixture(autouse=True)
def _exact_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference's own fp32 products must not be rounded to tf32."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@STRIDED
@DTYPE
@pytest.mark.parametrize("shape", [*MOE_SHAPES, (600, 8, 2, 512, 768), (2000, 16, 4, 256, 320), (33, 128, 8, 512, 192)], ids=str)
def test_moe(shape: tuple[int, int, int, int, int], dtype: torch.dtype, strided: bool) -> None:
    from headway.kernels.gpu import moe

    compare_moe(moe, shape, dtype, "cuda", strided=strided)


@DTYPE
@pytest.mark.parametrize("shape", [*ROUTE_SHAPES, (3000, 256, 8)], ids=str)
def test_routes(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    from headway.kernels.gpu import moe

    compare_routes(moe, shape, dtype, "cuda", strided=True)


@pytest.mark.parametrize(("num_tokens", "num_experts", "top_k", "block_m"), [(1, 5, 2, 16), (3000, 128, 8, 64), (5000, 1, 1, 16)])
def test_groups(num_tokens: int, num_experts: int, top_k: int, block_m: int) -> None:
    from headway.kernels.gpu import moe

    compare_groups(moe, num_tokens, num_experts, top_k, block_m, "cuda")


@DTYPE
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_few_bits(kind: str, dtype: torch.dtype) -> None:
    from headway.kernels.gpu import moe

    for shape in (*QUANTIZED_SHAPES, (600, 8, 2, 512, 768), (2000, 16, 4, 256, 320), (33, 128, 8, 512, 192)):
        for is_plain_down in (False, True):
            compare_quantized_moe(moe, kind, shape, dtype, "cuda", is_plain_down=is_plain_down)


@DTYPE
@pytest.mark.parametrize("kind", ["int4-32", "int4-64-order", "int8-32", "mxfp4"])
def test_weights_in_groups_of_experts_with_many_rows(kind: str, dtype: torch.dtype) -> None:
    from headway.kernels.gpu import moe

    for shape in (WIDE_SHAPE, (2000, 8, 2, 288, 192)):
        compare_quantized_moe(moe, kind, shape, dtype, "cuda")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
@pytest.mark.parametrize("kind", ["plain", *KINDS])
def test_the_host_waits_for_nothing(kind: str) -> None:
    from headway.kernels.moe import moe, route_tokens

    generator = torch.Generator().manual_seed(0)
    x, gate_up, down, logits = (
        torch.randn(*size, generator=generator).to("cuda", torch.bfloat16) for size in ((40, 64), (8, 256, 64), (8, 64, 128), (40, 8))
    )
    if kind != "plain":
        gate_up, down = (make_experts(kind, weights.float().cpu(), "cuda") for weights in (gate_up, down))
    try:
        for mode in ("default", "error"):  # compiled, then watched
            torch.cuda.set_sync_debug_mode(mode)
            moe(x, gate_up, down, *route_tokens(logits, 2, scoring="softmax", renormalise=True))
    finally:
        torch.cuda.set_sync_debug_mode("default")
