"""Pages that are keys and values at once, of the width that DeepSeek's have, on a CUDA device."""

from __future__ import annotations

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("num_heads", [16, 128])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_as_the_reference(dtype: torch.dtype, num_heads: int) -> None:
    """What is written, then read by rows of one query and of more, split over programs and not."""
    from headway.kernels.gpu import paged_attention, prefill_attention, rope
    from headway.kernels.reference import paged_attention as reference_decode
    from headway.kernels.reference import prefill_attention as reference_prefill
    from headway.kernels.reference import rope as reference_rope

    generator = torch.Generator("cuda").manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return (0.5 * torch.randn(shape, generator=generator, device="cuda")).to(dtype)

    pages, tolerance = random(300, 16, 1, 576), 1e-4 if dtype == torch.float32 else 1e-2
    q, k, cos_sin = random(40, num_heads, 576), random(40, 1, 576), torch.randn(64, 64, device="cuda")
    positions, slots, expected_pages = torch.arange(40, device="cuda"), torch.arange(40, device="cuda") * 7 - 1, pages.clone()
    q_found = rope.rope_and_cache(q, k, None, cos_sin, positions, pages, None, slots, interleaved=True)
    q = reference_rope.rope_and_cache(q, k, None, cos_sin, positions, expected_pages, None, slots, interleaved=True)
    torch.testing.assert_close(q_found, q, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(pages, expected_pages, atol=tolerance, rtol=tolerance)

    tables = torch.randperm(300, device="cuda").int().view(3, 100)
    lens = torch.tensor([1600, 1, 77], dtype=torch.int32, device="cuda")
    for longest in (1600, 64):
        own = lens.clamp(max=longest)
        found, expected = (
            module.paged_attention(q[:3], pages, pages, tables, own, 0.07, max_seq_len=longest)
            for module in (paged_attention, reference_decode)
        )
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    starts = torch.tensor([0, 30, 31, 40], dtype=torch.int32, device="cuda")
    found, expected = (
        module.prefill_attention(q, pages, pages, tables, lens, starts, 0.07, max_query_len=30, max_seq_len=1600)
        for module in (prefill_attention, reference_prefill)
    )
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
